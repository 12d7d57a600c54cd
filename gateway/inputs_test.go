package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// memoOfInputs remembers what it is told, and in whose order.
type memoOfInputs struct {
	world *world
	kept  []gateway.DecidedInput
	panic bool
}

func (m *memoOfInputs) Keep(in gateway.DecidedInput) {
	m.world.saw("keep")
	m.kept = append(m.kept, in)
	if m.panic {
		panic("keep")
	}
}

func (m *memoOfInputs) service(t *testing.T) *gateway.Service {
	t.Helper()
	config := m.world.config()
	config.Inputs = m
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An input is kept once its decision is durable and before anything is done, be
// it an allow or a denial, also where the gateway refused in the end.
func TestInputsAreKeptOnceTheDecisionIsDurable(t *testing.T) {
	asked := &execution.Asked{Input: json.RawMessage(`{"v":1}`), Answer: json.RawMessage(`{"effect":"allow"}`)}
	broken := allow()
	broken.Grant.Runtime = ""
	for name, test := range map[string]struct {
		decision execution.Decision
		history  string
	}{
		"allowed":     {allow(), "resolve decide decided keep execute ended"},
		"denied":      {execution.Deny("sha256:rev", execution.Reason{Code: "no"}), "resolve decide decided keep"},
		"no good":     {broken, "resolve decide decided keep"},
		"unsupported": {execution.Decision{Effect: execution.EffectRequireApproval}, "resolve decide decided keep"},
	} {
		for _, panics := range []bool{false, true} {
			w := newWorld()
			m := &memoOfInputs{world: w, panic: panics}
			w.decide = func(execution.Question) execution.Decision {
				d := test.decision
				d.Asked = asked
				return d
			}
			response, _ := m.service(t).Execute(t.Context(), call())
			if w.history() != test.history {
				t.Errorf("%s: order %q, want %q", name, w.history(), test.history)
			}
			if len(m.kept) != 1 || m.kept[0].Asked != asked || m.kept[0].ID != response.ID || m.kept[0].Seq != response.Records[0] ||
				m.kept[0].Principal.Tenant != "acme" || m.kept[0].RequestID != "rq_1" {
				t.Errorf("%s: kept %+v of %+v", name, m.kept, response)
			}
			if d := w.recorded()[0].Decided; d.InputSHA256 != execution.HexSHA256(asked.Input) || d.AnswerSHA256 != execution.HexSHA256(asked.Answer) {
				t.Errorf("%s: the record does not have the digests of what is kept: %+v", name, d)
			}
			if response.Decision.Asked != nil {
				t.Errorf("%s: the answer holds what was asked", name)
			}
		}
	}
}

func TestInputsThatAreNotKept(t *testing.T) {
	w := newWorld()
	m := &memoOfInputs{world: w}
	if _, err := m.service(t).Execute(t.Context(), call()); err != nil || len(m.kept) != 0 {
		t.Errorf("a decision that says nothing was kept: %+v, %v", m.kept, err)
	}
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Asked = &execution.Asked{}
		return d
	}
	w.append = func(context.Context, execution.Record) error { return errors.New("disk") }
	if _, err := m.service(t).Execute(t.Context(), call()); err == nil || len(m.kept) != 0 {
		t.Errorf("a decision that is not durable was kept: %+v, %v", m.kept, err)
	}
}

// A warning is told to whoever watches, and takes no work away.
func TestReadyWithAWarning(t *testing.T) {
	s := serve(t, newWorld(), func(c *gateway.Config) {
		c.Probers = map[string]gateway.Prober{"replay": prober(func(context.Context) error { return gateway.Warning("look") })}
	})
	want := `{"status":"ready","checks":[{"name":"gateway","ready":true},{"name":"replay","ready":true,"detail":"look"}]}`
	if a := s.do("GET", "/readyz", "", ""); a.StatusCode != 200 || a.body != want {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
