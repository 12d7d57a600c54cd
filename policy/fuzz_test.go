package policy

import (
	"context"
	"encoding/json"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

const wholeDocument = `{"effect": "allow", "reasons": [{"code": "a", "message": "b", "rule": "c", "remediation": "d"}],
	"limits": {"timeout_ms": 1000, "memory_mib": 64, "cpu_millis": 100, "cpu_shares": 256, "pids": 8,
		"nofile": 64, "tmp_mib": 1, "workspace_mib": 1, "shm_mib": 1, "output_kib": 1, "result_kib": 1,
		"files_mib": 1, "files_count": 1},
	"on_exceed": {"memory_mib": "deny"}, "image": {"digests": ["sha256:00"]}, "runtime": "runc",
	"env": {"allow": ["A"]}, "optional_controls": ["x"],
	"network": {"rules": [], "budget": {"requests": 1, "bytes": 1, "requests_per_s": 1, "connections": 1}},
	"credentials": [], "session": null, "reuse": "never", "approval": {"expires_s": 60, "roles": ["approver"]},
	"obligations": [{"type": "t", "must": false, "more": {}}], "advice": [{"type": "u"}]}`

// Whatever a policy answers, decoding it does not panic, and an allow that
// comes of it is whole: every limit within its range and within what the
// document says, the asked image among its digests.
func FuzzDocument(f *testing.F) {
	f.Add(wholeDocument)
	f.Add(`{"effect": "deny", "reasons": []}`)
	f.Add(`{"effect": "allow", "network": {"rules": [{"host": "a", "ports": [1], "methods": ["GET"], "paths": ["/"],
		"websocket": true, "private": false, "mode": "tunnel"}]}, "session": {"idle_s": 1, "absolute_s": 2, "max": 3}}`)
	f.Add(`{"effect": "allow", "credentials": [{"tool": "a", "mount": "b", "engine": "c", "path": "d", "role": "e",
		"vault_policies": ["f"], "ttl_s": 1, "max_uses": 1, "strict": true, "inject": "file", "file_path": "g", "env_name": "h",
		"bind": [{"host": "i", "port": 1, "methods": [], "paths": [], "name": "j", "mode": "bearer"}]}]}`)
	f.Add(`{"effect": "allow", "limits": {"memory_mib": 1e400}}`)
	f.Add(`{"effect": "allow", "limits": {"memory_mib": -9223372036854775809}}`)
	f.Add(`[[[[[[[[{}]]]]]]]]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		value, err := ast.ValueFromReader(strings.NewReader(text))
		if err != nil {
			return
		}
		in := &input{Action: actionInput{
			Image: execution.Image{Digest: "sha256:00"}, EnvNames: []string{"A"},
			Limits: execution.Limits{MemoryMiB: 128},
		}}
		doc, err := decodeDocument(value)
		if err != nil {
			if len(err.Error()) == 0 {
				t.Error("an error without words")
			}
			return
		}
		d := enforce(doc, in, "sha256:00", nil)
		if !d.Allowed() {
			if len(d.Reasons) == 0 {
				t.Error("a denial without a reason")
			}
			return
		}
		if err := d.Grant.Limits.Validate(); err != nil {
			t.Error(err)
		}
		for _, limit := range execution.AllLimits() {
			if granted, most := *limit.Of(&d.Grant.Limits), *limit.Of(&doc.limits); granted > most {
				t.Errorf("%s: granted %d of %d", limit.Name, granted, most)
			}
		}
		// What encoding/json makes of the same text must say allow too.
		var loose struct{ Effect string }
		if err := json.Unmarshal([]byte(text), &loose); err != nil || loose.Effect != "allow" {
			t.Errorf("allowed although the effect is %q (%v)", loose.Effect, err)
		}
	})
}

// Whatever a data file holds, it is refused or read as encoding/json reads it.
func FuzzStrictJSON(f *testing.F) {
	for _, text := range []string{
		`{"a": [1, 2.5, -3e10, "x", null, true, {}]}`, `{"a": 1, "a": 2}`, `1e400`, `[[[]]]`, `{} {}`, `"\ud800"`, ``,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value, err := strictJSON([]byte(text))
		if err != nil {
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("%q is no JSON and was read as %v", text, value)
		}
		if _, err := ast.InterfaceToValue(value); err != nil {
			t.Errorf("%q has no value: %v", text, err)
		}
	})
}

func TestWholeDocumentIsDecoded(t *testing.T) {
	value, err := ast.ValueFromReader(strings.NewReader(wholeDocument))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := decodeDocument(value)
	if err != nil {
		t.Fatal(err)
	}
	if doc.network.budget.RequestsPerS != 1 || doc.approval.roles[0] != "approver" || doc.session != nil ||
		doc.onExceed["memory_mib"] != exceedDeny || doc.obligations[0].Must || doc.advice[0].Type != "u" {
		t.Errorf("decoded as %+v", doc)
	}
}

// A bundle, whatever is in it, is compiled or refused with what is wrong; what
// compiles answers with a decision.
func FuzzBundle(f *testing.F) {
	f.Add("package execgate\n\ndecision := {\"effect\": \"allow\"}", `{"tenants": {"a": {}}}`, "a/b")
	f.Add("package execgate\n\n# METADATA\n# custom: {id: a, mode: warn}\ndecision := {\"effect\": \"deny\"} if input.v == 1", `{}`, ".")
	f.Add("package execgate.decision\n\neffect := data.x", `{"x": "allow", "x": "deny"}`, "execgate/decision")
	f.Fuzz(func(t *testing.T, rego, data, folder string) {
		if len(rego) > 4<<10 || len(data) > 4<<10 {
			return // what large ones cost is for the bounds on sizes and time
		}
		files := Files{"p.rego": []byte(rego)}
		if name := path.Join(folder, "data.json"); fs.ValidPath(name) {
			files[name] = []byte(data)
		}
		engine, err := New(Config{Deadline: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		revision, err := engine.Activate(context.Background(), Bundle{Files: files})
		if err != nil {
			if engine.Revision() != "" {
				t.Error("what was refused is in force")
			}
			return
		}
		d := engine.Decide(context.Background(), execution.Question{Action: execution.ActionExecute})
		if d.Revision != revision || d.Effect == "" {
			t.Errorf("the decision is %+v of revision %s", d, revision)
		}
		if d.Allowed() && d.Grant.Limits.Validate() != nil {
			t.Errorf("allowed without limits: %+v", d)
		}
	})
}
