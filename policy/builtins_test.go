package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// A caller's text that a policy makes a number of costs the square of its length in one
// call: these took seconds each, and four of them denied everybody's requests.
func TestLongNumbersAreRefused(t *testing.T) {
	long := "0." + strings.Repeat("9", 200_000)
	for name, test := range map[string]struct{ rule, text, code string }{
		"to_number":                    {"to_number(input.action.args.s) < 2", long, execution.CodePolicyError},
		"units.parse":                  {"units.parse(input.action.args.s) < 2", long, execution.CodePolicyError},
		"units.parse_bytes":            {"units.parse_bytes(input.action.args.s) < 2", long, execution.CodePolicyError},
		"json.unmarshal":               {"json.unmarshal(input.action.args.s) < 2", long, execution.CodePolicyError},
		"json.unmarshal, within":       {"json.unmarshal(input.action.args.s)[1] < 2", `["\\\"", ` + long + "]", execution.CodePolicyError},
		"json.unmarshal of a string":   {"count(json.unmarshal(input.action.args.s)) > 2", `"\"` + long + `"`, "held"},
		"to_number of a short one":     {"to_number(input.action.args.s) < 2", "1.5", "held"},
		"units.parse of a short one":   {"units.parse_bytes(input.action.args.s) == 2048", "2KiB", "held"},
		"json.unmarshal of short ones": {"count(json.unmarshal(input.action.args.s)) == 1000", "[" + strings.Repeat("1.5,", 999) + "2]", "held"},
	} {
		t.Run(name, func(t *testing.T) {
			rego := "package execgate\n\ndecision := {\"effect\": \"deny\", \"reasons\": [{\"code\": \"held\", \"rule\": \"r\", \"message\": \"m\", \"remediation\": \"r\"}]} if " + test.rule
			bundle := policy.Bundle{Files: fstest.MapFS{"a.rego": {Data: []byte(rego)}}}
			engine := newEngine(t, policy.Config{Deadline: time.Minute}, bundle)
			args, err := json.Marshal(map[string]string{"s": test.text})
			if err != nil {
				t.Fatal(err)
			}
			q := question()
			q.Action, q.Tool = execution.ActionToolCall, execution.ToolCall{Name: "x", Args: args}
			soon(t, time.Second, func() { wantDenied(t, engine.Decide(t.Context(), q), test.code) })
		})
	}
}

// Numbers as such are refused before they are read.
func TestLongNumbersInJSON(t *testing.T) {
	long := strings.Repeat("1", 200) + "." + strings.Repeat("7", 1000)
	wantRefused(t, policy.Bundle{Files: fstest.MapFS{"a.rego": {Data: []byte(minimal)}, "data.json": {Data: []byte(`{"a": ` + long + `}`)}}}, "has more than")
	q := question()
	q.Action, q.Tool = execution.ActionToolCall, execution.ToolCall{Name: "x", Args: json.RawMessage(`{"a": ` + long + `}`)}
	wantDenied(t, newEngine(t, policy.Config{Deadline: time.Minute}, shipped()).Decide(t.Context(), q), "arguments_unreadable")
}
