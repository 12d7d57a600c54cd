package gateway_test

import (
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A warning is for the caller and the record; what a rule in the mode shadow
// said is for the record alone.
func TestWarningsAreToldAndShadowsAreNot(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Warnings = []execution.Reason{{Code: "soon", Message: "soon denied", Rule: "r.warn"}}
		d.Shadowed = []execution.Reason{{Code: "hidden", Message: "not yet", Rule: "r.shadow"}}
		return d
	}
	a := serve(t, w, nil).do("POST", "/v1/executions", callerToken, `{"language": "python", "code": "1"}`)
	if a.StatusCode != 200 || !strings.Contains(string(a.body), `"warnings":[{"code":"soon"`) {
		t.Errorf("the caller is not warned: %d %s", a.StatusCode, a.body)
	}
	if strings.Contains(string(a.body), "hidden") {
		t.Errorf("the caller is told of a rule in the mode shadow: %s", a.body)
	}
	d := w.recorded()[0].Decided.Decision
	if len(d.Warnings) != 1 || len(d.Shadowed) != 1 {
		t.Errorf("the record has %+v", d)
	}
}
