package policy_test

import (
	"testing"

	"github.com/execgate/execgate/execution"
)

// What it costs to be asked for each request that leaves: the figures of docs/policy.md.
func BenchmarkEgress(b *testing.B) {
	engine := newEngine(b, unhurried, openedPolicy(b, ""))
	for name, test := range map[string]struct {
		change  func(*execution.EgressRequest)
		allowed bool
	}{
		"allow": {func(*execution.EgressRequest) {}, true},
		"deny":  {func(r *execution.EgressRequest) { r.Method = "PUT" }, false},
		"token": {func(r *execution.EgressRequest) { r.Host = "sts.eu-west-1.amazonaws.com" }, false},
	} {
		b.Run(name, func(b *testing.B) {
			q := sent()
			test.change(q.Egress)
			benchmarkDecide(b, engine, q, test.allowed)
		})
	}
}

// Requests are many: being asked about one costs less than the decision that let its
// program run. Steps do not depend on the machine.
func TestEgressCostsLessThanAnExecution(t *testing.T) {
	engine := newEngine(t, unhurried, openedPolicy(t, ""))
	if one, execution := steps(engine, sent()), steps(engine, toAllow()); one > execution*3/4 {
		t.Errorf("%d steps, and %d for an execution", one, execution)
	}
}
