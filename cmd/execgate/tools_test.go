package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// twoTools are granted to one tenant each.
const twoTools = `
tools:
  - name: adder
    description: Adds two numbers.
    kind: container
    image: python
    command:
      - python3
      - -c
      - |
        import json, os, sys
        x = json.load(sys.stdin)
        print(json.dumps({"sum": x["a"] + x.get("b", 0), "note": x.get("note"), "env": sorted(n for n in os.environ if n.startswith("MY_"))}))
    limits: {memory_mib: 64}
    arguments:
      type: object
      additionalProperties: false
      required: [a]
      properties: {a: {type: number}, b: {type: number}, note: {type: string, maxLength: 100}, deep: {}}
  - name: sleeper
    description: Sleeps for longer than it may.
    kind: container
    image: python
    command: [python3, -c, "print('begun', flush=True); import time; time.sleep(60)"]
    limits: {timeout_ms: 500}
    arguments: {type: object, additionalProperties: false}
`

// withTools starts a gateway that has these tools, of which the tenants' data grant
// each some.
func withTools(t *testing.T, tools string, granted map[string][]string) *gatewayUnderTest {
	t.Helper()
	needsEngine(t)
	dir := t.TempDir()
	config, policy := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "policy")
	if err := os.WriteFile(config, []byte(tools), 0o600); err != nil {
		t.Fatal(err)
	}
	shippedPolicy(t, policy)
	for tenant, names := range granted {
		folder := filepath.Join(policy, "tenants", tenant)
		text, err := json.Marshal(map[string]any{"tools": names})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "data.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), nil)
	g.args = []string{"--config", config, "--policy", policy}
	g.start()
	g.waitReady()
	return g
}

// A tool is called in a sandbox, by who is granted it and nobody else; the record has
// the call by the digest of its arguments, and the other tenant cannot tell that there
// is such a tool.
func TestToolCalls(t *testing.T) {
	t.Parallel()
	g := withTools(t, twoTools, map[string][]string{"default": {"adder"}, "research": {"sleeper"}})
	other := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"roles":["caller"],"tenant":"research"}`))
	call := func(tool, body string, headers ...string) reply {
		return g.request(http.MethodPost, "/v1/tools/"+tool+"/calls", body, headers...)
	}

	a := call("adder", `{"arguments": {"a": 1.50, "b": 2, "note": "grüße <&>"}, "metadata": {"agent": "bot"}}`)
	var got struct {
		ID         string
		Structured map[string]any
		Outcome    string
		IsError    bool `json:"is_error"`
		Records    []uint64
	}
	if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got.Structured["sum"] != 3.5 || got.Structured["note"] != "grüße <&>" || got.Outcome != "exited" || got.IsError || len(got.Records) != 2 {
		t.Errorf("%s", a.body)
	}

	// A tool that is stopped has a result too. On a busy machine it may be stopped before
	// it has begun.
	sleepers := 0
	eventually(t, "the tool says something before it is stopped", func() bool {
		a = call("sleeper", `{"arguments": {}}`, "Authorization", other)
		sleepers++
		return a.status != http.StatusOK || !bytes.Contains(a.body, []byte(`"content":""`))
	})
	if a.status != http.StatusOK || !bytes.Contains(a.body, []byte(`"outcome":"timed_out"`)) || !bytes.Contains(a.body, []byte(`"is_error":true`)) ||
		!bytes.Contains(a.body, []byte(`"content":"begun\n"`)) {
		t.Errorf("%d %s", a.status, a.body)
	}

	// Each tenant sees its own.
	for header, want := range map[string]string{"Bearer " + g.key(): "adder", other: "sleeper"} {
		a := g.request(http.MethodGet, "/v1/tools", "", "Authorization", header)
		var list struct{ Tools []struct{ Name string } }
		if err := json.Unmarshal(a.body, &list); err != nil || len(list.Tools) != 1 || list.Tools[0].Name != want {
			t.Errorf("%s: %d %s", want, a.status, a.body)
		}
	}
	refused := func(tool, body string) string {
		p := call(tool, body, "Authorization", other).refused(t, http.StatusForbidden)
		if !strings.Contains(p.Detail, tool) || len(p.Reasons) != 1 || p.Reasons[0].Code != "tool_not_granted" {
			t.Errorf("%s: %+v", tool, p)
		}
		return strings.ReplaceAll(p.Detail+p.Reasons[0].Message+p.Reasons[0].Rule+p.Reasons[0].Remediation, tool, "TOOL")
	}
	for _, body := range []string{`{"arguments": {"a": 1}}`, `{"arguments": {"wrong": 1}}`} {
		if another, none := refused("adder", body), refused("nothing", body); another != none {
			t.Errorf("a tool of another tenant: %s\none that there is not: %s", another, none)
		}
	}

	var calls []string
	for _, r := range g.recordsOf(execution.RecordDecided) {
		d := r.Decided
		calls = append(calls, strings.Join([]string{string(d.Action), r.Principal.Tenant, d.Tool, string(d.Decision.Effect)}, " "))
		if r.Execution == got.ID {
			if want := execution.HexSHA256([]byte(`{"a":1.50,"b":2,"note":"grüße <&>"}`)); d.ArgsSHA256 != want || d.Image != "python" || d.Metadata["agent"] != "bot" {
				t.Errorf("%+v", d)
			}
		}
		if text, err := json.Marshal(r); err != nil || bytes.Contains(text, []byte("grü")) {
			t.Errorf("the arguments stand in the record: %s, %v", text, err)
		}
	}
	want := slices.Concat(
		[]string{"tool_call default adder allow"}, slices.Repeat([]string{"tool_call research sleeper allow"}, sleepers),
		slices.Repeat([]string{"tool_call research adder deny", "tool_call research nothing deny"}, 2),
	)
	if !slices.Equal(calls, want) {
		t.Errorf("recorded\n%s", strings.Join(calls, "\n"))
	}
	if ended := g.recordsOf(execution.RecordEnded); len(ended) != 1+sleepers {
		t.Errorf("%d ends", len(ended))
	}
	g.waitNothingLeft()
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
}

// Arguments that are wrong are answered with where, and nothing comes of them.
func TestToolCallsThatAreWrong(t *testing.T) {
	t.Parallel()
	g := withTools(t, twoTools, map[string][]string{"default": {"adder"}})
	for _, test := range []struct {
		name, body string
		status     int
		pointers   []string
	}{
		{"none", `{}`, 400, []string{"/arguments"}},
		{"no object", `{"arguments": [1]}`, 400, []string{"/arguments"}},
		{"off the schema", `{"arguments": {"b": "2", "c": 1}}`, 400, []string{"/arguments/a", "/arguments/b", "/arguments/c"}},
		{"an image", `{"arguments": {"a": 1}, "image": "node", "command": ["sh"]}`, 400, []string{"/command", "/image"}},
		{"NUL", `{"arguments": {"a": 1, "note": "x\u0000y"}}`, 400, []string{"/arguments/note"}},
		{"NUL as it is", "{\"arguments\": {\"a\": 1, \"note\": \"x\x00y\"}}", 400, []string{"/arguments/note"}},
		{"a key twice", `{"arguments": {"a": 1, "\u0061": 2}}`, 400, []string{"/arguments/a"}},
		{"a key twice below", `{"arguments": {"a": 1, "deep": [{"x": 1, "x": 2}]}}`, 400, []string{"/arguments/deep/0/x"}},
		{"nesting", `{"arguments": {"a": 1, "deep": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}}`, 400, []string{"/arguments"}},
		{"a costly number", `{"arguments": {"a": 1e-999999999}}`, 400, []string{"/arguments/a"}},
		{"a long string", `{"arguments": {"a": 1, "note": "` + strings.Repeat("x", 100_000) + `"}}`, 400, []string{"/arguments/note"}},
		{"a megabyte", `{"arguments": {"a": 1, "note": "` + strings.Repeat("x", 1<<20) + `"}}`, 413, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ask := func() reply { return g.request(http.MethodPost, "/v1/tools/adder/calls", test.body) }
			if test.status == http.StatusRequestEntityTooLarge {
				ask = func() reply { return g.announce(http.MethodPost, "/v1/tools/adder/calls", int64(len(test.body))) }
			}
			p := ask().refused(t, test.status)
			var pointers []string
			for _, e := range p.Errors {
				pointers = append(pointers, e.Pointer)
			}
			if !slices.Equal(pointers, test.pointers) {
				t.Errorf("%+v", p)
			}
		})
	}
	if decided := g.recordsOf(execution.RecordDecided); len(decided) != 0 {
		t.Errorf("recorded %+v", decided)
	}
	if strings.Contains(g.log.String(), strings.Repeat("x", 100)) {
		t.Error("arguments stand in the log")
	}
}

// The schema, by which editors go, says of tools what their configuration is.
func TestSchemaIsTheToolConfig(t *testing.T) {
	type node struct {
		Properties map[string]node
		Items      *node
	}
	var root node
	if err := json.Unmarshal(configSchema, &root); err != nil {
		t.Fatal(err)
	}
	var compare func(at string, described node, is reflect.Type)
	compare = func(at string, described node, is reflect.Type) {
		for is.Kind() == reflect.Pointer || is.Kind() == reflect.Slice {
			if is.Kind() == reflect.Slice && described.Items != nil {
				described = *described.Items
			}
			is = is.Elem()
		}
		if is.Kind() != reflect.Struct {
			return
		}
		for field := range is.Fields() {
			key := field.Tag.Get("yaml")
			if key == "-" {
				continue
			}
			inner, ok := described.Properties[key]
			if !ok {
				t.Errorf("%s.%s is not in the schema", at, key)
			}
			delete(described.Properties, key)
			compare(at+"."+key, inner, field.Type)
		}
		for key := range described.Properties {
			t.Errorf("%s.%s is in the schema only", at, key)
		}
	}
	for _, limit := range execution.AllLimits() {
		if _, ok := root.Properties["tools"].Items.Properties["limits"].Properties[limit.Name]; !ok {
			t.Errorf("tools.limits.%s is not in the schema", limit.Name)
		}
	}
	compare("tools", root.Properties["tools"], reflect.TypeFor[[]ToolConfig]())
	compare("exporters", root.Properties["exporters"], reflect.TypeFor[[]ExporterConfig]())
}
