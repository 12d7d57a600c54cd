package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

const aJob = `{"language": "python", "code": "1"}`

// What policy would say is said, and nothing else happens: nothing runs, nothing
// is lent, and no record says that something was decided.
func TestDecisionsAreExplained(t *testing.T) {
	deny := execution.Deny("sha256:rev", execution.Reason{Code: "no", Message: "not this", Rule: "r.one", Remediation: "another"})
	lent := allow("github")
	lent.Grant.Network.Rules = []execution.NetworkRule{{Host: "db.example", Ports: []int{5432}, Mode: execution.NetworkForward}}
	lent.Grant.Credentials[0].Path = "secret/path"
	for name, test := range map[string]struct {
		decision execution.Decision
		has      []string
		not      []string
	}{
		"allow":   {allow(), []string{`"effect":"allow"`, `"grant":{"image":"sha256:1111`, `"timeout_ms":1000`}, []string{`"session"`, `"trace"`, `"input"`}},
		"lent":    {lent, []string{`"network":[{"host":"db.example","ports":[5432],"mode":"forward"}]`, `"tools":["github"]`}, []string{"secret/path"}},
		"deny":    {deny, []string{`"effect":"deny"`, `"code":"no"`, `"rule":"r.one"`}, []string{`"grant"`}},
		"invalid": {execution.Decision{Effect: execution.EffectAllow}, []string{`"effect":"deny"`, "policy_invalid"}, []string{`"grant"`}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			test.decision.Shadowed = []execution.Reason{{Code: "hidden"}}
			w.decide = func(execution.Question) execution.Decision { return test.decision }
			a := serve(t, w, nil).do("POST", "/v1/decisions", callerToken, aJob)
			if a.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			for _, want := range test.has {
				if !strings.Contains(a.body, want) {
					t.Errorf("no %s in %s", want, a.body)
				}
			}
			for _, other := range append(test.not, "hidden") {
				if strings.Contains(a.body, other) {
					t.Errorf("%s is in %s", other, a.body)
				}
			}
			if got := w.history(); got != "resolve explain" || len(w.recorded()) != 0 {
				t.Errorf("it did %q and recorded %v", got, w.recorded())
			}
		})
	}
}

// The steps of an evaluation show the policy and everybody's data.
func TestStepsAreForAdmins(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Shadowed = []execution.Reason{{Code: "hidden"}}
		d.Layers = []execution.Layer{{Name: execution.LayerCeilings, Revision: "sha256:00"}}
		return d
	}
	site := serve(t, w, nil)
	if a := site.do("POST", "/v1/decisions?explain=full", callerToken, aJob); a.StatusCode != http.StatusForbidden || len(w.history()) != 0 {
		t.Errorf("a caller: %d %s", a.StatusCode, a.body)
	}
	if a := site.do("POST", "/v1/decisions?explain=full", "admin/acme", aJob); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "other_tenant") || len(w.history()) != 0 {
		t.Errorf("an admin of another tenant: %d %s, did %q", a.StatusCode, a.body, w.history())
	}
	a := site.do("POST", "/v1/decisions?explain=full", "admin/default", aJob)
	var got struct {
		Input    json.RawMessage
		Trace    string
		Shadowed []execution.Reason
		Layers   []execution.Layer
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
	if string(got.Input) != `{"v":1}` || got.Trace == "" || len(got.Shadowed) != 1 || len(got.Layers) != 1 {
		t.Errorf("%s", a.body)
	}
}

func TestDecisionsThatCannotBeExplained(t *testing.T) {
	for name, test := range map[string]struct {
		query, body string
		change      func(*world)
		status      int
		code        string
	}{
		"parameter": {"?trace=1", aJob, nil, http.StatusBadRequest, "invalid_parameter"},
		"value":     {"?explain=yes", aJob, nil, http.StatusBadRequest, "invalid_parameter"},
		"twice":     {"?explain=full&explain=full", aJob, nil, http.StatusBadRequest, "invalid_parameter"},
		"body":      {"", `{"cod": "1"}`, nil, http.StatusBadRequest, ""},
		"no such image": {"", aJob, func(w *world) {
			w.image = func(string, string) (execution.Image, error) {
				return execution.Image{}, &execution.Error{Kind: execution.KindNotFound, Code: "image_unknown"}
			}
		}, http.StatusNotFound, "image_unknown"},
		"no engine": {"", aJob, func(w *world) {
			w.image = func(string, string) (execution.Image, error) {
				return execution.Image{}, &execution.Error{Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable}
			}
		}, http.StatusServiceUnavailable, execution.CodeEngineUnavailable},
		"no policy": {"", aJob, func(w *world) {
			w.decide = func(execution.Question) execution.Decision {
				return execution.Deny("", execution.Reason{Code: execution.CodePolicyNotLoaded, Message: "none"})
			}
		}, http.StatusServiceUnavailable, execution.CodePolicyNotLoaded},
		"a panic": {"", aJob, func(w *world) {
			w.decide = func(execution.Question) execution.Decision { panic("as told") }
		}, http.StatusInternalServerError, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if test.change != nil {
				test.change(w)
			}
			a := serve(t, w, nil).do("POST", "/v1/decisions"+test.query, callerToken, test.body)
			if a.StatusCode != test.status || !strings.Contains(a.body, test.code) {
				t.Errorf("%d %s: want %d %s", a.StatusCode, a.body, test.status, test.code)
			}
		})
	}
}
