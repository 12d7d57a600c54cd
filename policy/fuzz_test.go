package policy

import (
	"context"
	"encoding/json"
	"io/fs"
	"path"
	"slices"
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
	"network": {"rules": [{"host": "db.test", "ports": [5432], "private": true, "mode": "forward"}],
		"budget": {"requests": 1, "bytes": 1, "requests_per_s": 1, "connections": 1}},
	"credentials": [{"tool": "db", "mount": "database", "engine": "database", "role": "reader", "vault_policies": ["db"],
		"ttl_s": 60, "inject": "env", "env_name": "DB"}], "session": null, "reuse": "never", "approval": {"expires_s": 60, "roles": ["approver"]},
	"obligations": [{"type": "t", "must": false, "more": {}}], "advice": [{"type": "u"}]}`

// Whatever a policy answers, decoding it does not panic, and an allow that
// comes of it is whole: every limit within its range and within what the
// document says, the asked image among its digests, the network and the credentials
// ones that can be carried out, and none of them of what was not asked for.
func FuzzDocument(f *testing.F) {
	in := &input{Action: actionInput{
		Image: execution.Image{Digest: "sha256:00"}, EnvNames: []string{"A"},
		Limits:  execution.Limits{MemoryMiB: 64},
		Network: []execution.Destination{{Host: "db.test", Port: 5432}}, Tools: []string{"db"},
	}}
	if d := enforce(decoded(f, wholeDocument), in, "", nil); !d.Allowed() {
		f.Fatalf("the whole document is denied: %+v", d.Reasons)
	}
	f.Add(wholeDocument)
	f.Add(`{"effect": "deny", "reasons": []}`)
	f.Add(`{"effect": "allow", "network": {"rules": [{"host": "a", "ports": [1], "methods": ["GET"], "paths": ["/"],
		"websocket": true, "private": false, "mode": "tunnel"}]}, "session": {"idle_s": 1, "absolute_s": 2, "max": 3}}`)
	f.Add(`{"effect": "allow", "credentials": [{"tool": "a", "mount": "b", "engine": "c", "path": "d", "role": "e",
		"vault_policies": ["f"], "ttl_s": 1, "max_uses": 1, "strict": true, "inject": "file", "file_path": "g", "env_name": "h",
		"bind": [{"host": "i", "port": 1, "methods": [], "paths": [], "name": "j", "mode": "bearer"}]}]}`)
	for _, change := range [][2]string{
		{`"db.test"`, `"*.test"`}, {`"db.test"`, `"DB.test"`}, {`"db.test"`, `"2130706433"`}, {`[5432]`, `[0]`}, {`[5432]`, `[65536]`},
		{`"forward"`, `"intercept"`}, {`"requests": 1`, `"requests": 0`}, {`"mode": "forward"`, `"mode": "forward", "methods": ["GET"]`},
		{`"role": "reader"`, `"path": "../sys/seal"`}, {`"role": "reader"`, `"role": "a/b"`}, {`["db"]`, `["root"]`},
		{`"inject": "env", "env_name": "DB"`, `"inject": "file", "file_path": "/tmp/key"`}, {`"DB"`, `"LD"`}, {`"ttl_s": 60`, `"ttl_s": 60, "max_uses": 1`},
		{`"inject": "env", "env_name": "DB"`, `"inject": "egress", "bind": [{"host": "a", "port": 1, "mode": "bearer"}]`},
	} {
		f.Add(strings.Replace(wholeDocument, change[0], change[1], 1))
	}
	f.Add(`{"effect": "allow", "limits": {"memory_mib": 1e400}}`)
	f.Add(`{"effect": "allow", "limits": {"memory_mib": -9223372036854775809}}`)
	f.Add(`[[[[[[[[{}]]]]]]]]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		value, err := ast.ValueFromReader(strings.NewReader(text))
		if err != nil {
			return
		}
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
		wantCarriedOut(t, d.Grant, in)
		// What encoding/json makes of the same text must say allow too.
		var loose struct{ Effect string }
		if err := json.Unmarshal([]byte(text), &loose); err != nil || loose.Effect != "allow" {
			t.Errorf("allowed although the effect is %q (%v)", loose.Effect, err)
		}
	})
}

// wantCarriedOut wants of a grant that what it opens and lends makes sense, and is of
// what was asked for.
func wantCarriedOut(t *testing.T, g execution.Grant, in *input) {
	t.Helper()
	if err := g.Network.Validate(); err != nil {
		t.Error(err)
	}
	for _, to := range in.Action.Network {
		if !slices.ContainsFunc(g.Network.Rules, func(r execution.NetworkRule) bool { return r.Opens(to) }) {
			t.Errorf("%v was asked for and is not opened by %+v", to, g.Network.Rules)
		}
	}
	for _, rule := range g.Network.Rules {
		name, wildcard := strings.CutPrefix(rule.Host, "*.")
		if wildcard && rule.Mode == execution.NetworkForward || strings.ToLower(name) != name || name == "" || strings.ContainsAny(name, "*: /\x00") {
			t.Errorf("opened: %+v", rule)
		}
	}
	for _, c := range g.Credentials {
		if err := c.Validate(); err != nil || !slices.Contains(in.Action.Tools, c.Tool) {
			t.Errorf("lent: %+v, %v", c, err)
		}
	}
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

func decoded(t testing.TB, text string) document {
	t.Helper()
	value, err := ast.ValueFromReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := decodeDocument(value)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestWholeDocumentIsDecoded(t *testing.T) {
	doc := decoded(t, wholeDocument)
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
	f.Add("package execgate\n\nimport data.tools\n\ndecision := object.union(data.whole, {\"credentials\": [c | some t in input.action.tools; c := tools[t]]})",
		`{"whole": `+wholeDocument+`, "tools": {"db": {"tool": "db", "mount": "m", "engine": "kv2", "path": "a/b", "vault_policies": ["db"], "inject": "file", "file_path": "/tmp/key"}}}`, ".")
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
		asked := execution.Question{
			Action: execution.ActionExecute, Image: execution.Image{Name: "python", Digest: "sha256:00"},
			Request: execution.Request{Network: []execution.Destination{{Host: "db.test", Port: 5432}}, Tools: []string{"db"}},
		}
		d := engine.Decide(context.Background(), asked)
		if d.Revision != revision || d.Effect == "" {
			t.Errorf("the decision is %+v of revision %s", d, revision)
		}
		if !d.Allowed() {
			return
		}
		if d.Grant.Limits.Validate() != nil {
			t.Errorf("allowed without limits: %+v", d)
		}
		wantCarriedOut(t, d.Grant, &input{Action: actionInput{Network: asked.Request.Network, Tools: asked.Request.Tools}})
	})
}
