package activation_test

import (
	"testing"

	"github.com/execgate/execgate/execution"
)

// Every policy that comes in force reads the gateway's tools: the first, one that takes
// its place, one with other images, and the one before.
func TestPoliciesReadTheGatewaysTools(t *testing.T) {
	naming := func(version string) string {
		return `package execgate

decision := {"effect": "deny", "reasons": [{"code": concat(" ", ["` + version + `", data.tools.adder.kind])}]}`
	}
	p := newPlace(t)
	p.cfg.Tools = map[string]execution.ToolFacts{"adder": {Kind: execution.ToolContainer, Image: "python"}}
	m := p.mustStart(rego(naming("one")))
	says := func(when, want string) {
		t.Helper()
		if got := p.says(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	says("at the start", "one container")
	if err := m.Submit(t.Context(), rego(naming("two"))); err != nil {
		t.Fatal(err)
	}
	says("put in force", "two container")
	if err := m.Renew(t.Context(), map[string]string{"python": "sha256:00"}); err != nil {
		t.Fatal(err)
	}
	says("with other images", "two container")
	if err := m.Rollback(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	says("after the rollback", "one container")
}
