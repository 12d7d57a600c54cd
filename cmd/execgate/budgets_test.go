package main

import (
	"net/http"
	"testing"
)

// The budgets that policies keep outlive the gateway: they are read from its log.
func TestBudgetsOutliveTheGateway(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": sessionPolicy(t, `{"idle_s": 60, "absolute_s": 60, "max": 4}, "budget": {"principal": {"executions_1m": 2}}`)})
	const job = `{"language": "python", "code": "print(1)"}`
	for range 2 {
		g.execute(job).ok(t)
	}
	if p := g.execute(job).refused(t, http.StatusForbidden); p.Reasons[0].Code != "budget_spent" {
		t.Errorf("%+v", p)
	}
	g.kill()
	g.start()
	g.waitReady()
	if p := g.execute(job).refused(t, http.StatusForbidden); p.Reasons[0].Code != "budget_spent" {
		t.Errorf("after a restart: %+v", p)
	}
}
