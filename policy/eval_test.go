package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

const evalInput = `{"v": 1, "principal": {"tenant": "default", "roles": ["caller"]}, "agent": {"session": ""},
	"action": {"kind": "execute", "language": "python", "image": {"name": "python", "digest": "` + digest + `"},
		"runtime": "", "env_names": [], "limits": {"memory_mib": 4096}, "network": [], "tools": []}}`

func TestEval(t *testing.T) {
	got, err := policy.Eval(context.Background(), shipped(), nil, []byte(evalInput))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Decision.Allowed() || got.Decision.Clamped[0].Granted != 1024 || got.Cause != "" {
		t.Errorf("decision is %+v", got.Decision)
	}
	var document struct {
		Effect string
		Limits map[string]int
	}
	if err := json.Unmarshal(got.Document, &document); err != nil || document.Effect != "allow" || document.Limits["memory_mib"] != 1024 {
		t.Errorf("document is %s, %v", got.Document, err)
	}
	if want := newEngine(t, policy.Config{}, shipped()).Revision(); got.Revision != want {
		t.Errorf("revision is %s, want that of the engine, %s", got.Revision, want)
	}
}

// The steps name the rules that failed, also where there is no answer, and change none.
func TestEvalExplained(t *testing.T) {
	for step, bundle := range map[string]policy.Bundle{
		"# embedded\n":                  shipped(),
		"(matched 0 rules, early exit)": rego("package execgate\n\ndecision := {} if input.v == 2"),
		"Enter data.execgate.decision":  answer(`{"effect": "deny"}`),
	} {
		plain, err := policy.Eval(context.Background(), bundle, nil, []byte(evalInput))
		if err != nil {
			t.Fatal(err)
		}
		explained, err := policy.EvalExplained(context.Background(), bundle, nil, []byte(evalInput))
		if err != nil {
			t.Fatal(err)
		}
		if plain.Trace != "" || !strings.Contains(explained.Trace, step) || explained.Truncated {
			t.Errorf("without: %q; with: %q (truncated: %t), want %q", plain.Trace, explained.Trace, explained.Truncated, step)
		}
		explained.Trace = ""
		if diff := cmp.Diff(plain, explained); diff != "" {
			t.Errorf("the explained answer is another one (-plain +explained):\n%s", diff)
		}
	}
}

// An author sees what is wrong with an answer, and the answer itself.
func TestEvalTellsTheCause(t *testing.T) {
	for code, bundle := range map[string]policy.Bundle{
		execution.CodePolicyInvalid:   answer(`{"effect": "allow", "limit": {}}`),
		execution.CodePolicyError:     rego("package execgate\n\ndecision := x if x := to_number(input.action.language)"),
		execution.CodePolicyUndefined: rego("package execgate\n\ndecision := {} if input.v == 2"),
	} {
		got, err := policy.Eval(context.Background(), bundle, nil, []byte(evalInput))
		if err != nil {
			t.Fatal(err)
		}
		wantDenied(t, got.Decision, code)
		if (got.Cause == "") != (code == execution.CodePolicyUndefined) {
			t.Errorf("%s: cause is %q", code, got.Cause)
		}
		if (got.Document != nil) != (code == execution.CodePolicyInvalid) {
			t.Errorf("%s: document is %s", code, got.Document)
		}
	}
}

func TestEvalEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	got, err := policy.Eval(ctx, endless(), nil, []byte(evalInput))
	if err != nil {
		t.Fatal(err)
	}
	wantDenied(t, got.Decision, execution.CodePolicyTimeout)
}

func TestEvalRefusesInput(t *testing.T) {
	for _, text := range []string{
		``, `{`, `{} {}`, `{"v": 1, "v": 2}`, `{"V": 1}`, `{"prinicpal": {}}`, `{"v": "1"}`, `{"action": {"limits": {"memory": 1}}}`,
		`{"action": {"limits": {"memory_mib": 1e400}}}`, `{"action": {"Kind": "execute"}}`, `{"action": {"ſession": 1}}`,
		strings.Repeat(`{"action":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		if got, err := policy.Eval(context.Background(), shipped(), nil, []byte(text)); err == nil {
			t.Errorf("%.60s: evaluated to %s", text, got.Decision.Effect)
		}
	}
}

func TestTestReport(t *testing.T) {
	report, err := policy.Test(context.Background(), fstest.MapFS{
		"a.rego": {Data: []byte("package execgate\n\ndecision := {\"effect\": \"deny\"} if {\n\tinput.v == 1\n}\n\nnever if {\n\tinput.v == 2\n}\n")},
		"a_test.rego": {Data: []byte(`package execgate_test

import data.execgate

test_passes if execgate.decision.effect == "deny" with input.v as 1

test_fails if execgate.decision.effect == "allow" with input.v as 1

test_errs if to_number(data.word) == 1 with data.word as "a"

todo_test_later if false

test_cases[word] if {
	some word in ["a", "b"]
	word != "c"
}
`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]policy.TestOutcome)
	for _, r := range report.Results {
		got[r.Name] = r.Outcome
	}
	want := map[string]policy.TestOutcome{
		"test_passes": policy.TestPassed, "test_fails": policy.TestFailed, "test_errs": policy.TestErrored,
		"todo_test_later": policy.TestSkipped, "test_cases": policy.TestPassed,
	}
	for name, outcome := range want {
		if got[name] != outcome {
			t.Errorf("%s: %s, want %s", name, got[name], outcome)
		}
	}
	if report.Passed() {
		t.Error("the report passes")
	}
	if report.Coverage <= 0 || report.Coverage >= 100 || len(report.NotCovered) == 0 || !strings.HasPrefix(report.NotCovered[0], "a.rego:") {
		t.Errorf("coverage is %v, not covered %q", report.Coverage, report.NotCovered)
	}
}

// Tests get no more than the policy they test.
func TestTestsAreRestricted(t *testing.T) {
	for name, text := range map[string]string{
		"builtin": "package t\n\ntest_a if opa.runtime()",
		"schema":  "package t\n\ntest_a if input.prinicpal",
		"syntax":  "package t\n\ntest_a if {",
	} {
		_, err := policy.Test(context.Background(), fstest.MapFS{
			"a.rego": {Data: []byte(minimal)}, "a_test.rego": {Data: []byte(text)},
		})
		if fault, ok := errors.AsType[*policy.BundleError](err); !ok || len(fault.Problems) == 0 {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if report, err := policy.Test(context.Background(), fstest.MapFS{"a.rego": {Data: []byte(minimal)}}); err != nil || report.Passed() {
		t.Errorf("a folder without tests passes (%v)", err)
	}
}
