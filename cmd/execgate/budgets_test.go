package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/execgate/execgate/vault/vaulttest"
)

// The budgets that policies keep outlive the gateway: they are read from its log.
func TestBudgetsOutliveTheGateway(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": sessionPolicy(t, `{"idle_s": 60, "absolute_s": 60, "max": 4}, "budget": {"principal": {"cpu_ms_1h": 1}}`)})
	const job = `{"language": "python", "code": "print(1)"}`
	g.execute(job).ok(t)
	// What was used may be unknown of a sandbox of which a busy engine says nothing.
	eventually(t, "the budget is spent", func() bool {
		r := g.execute(job)
		if r.status == http.StatusOK {
			return false
		}
		if p := r.refused(t, http.StatusForbidden); p.Reasons[0].Code != "budget_spent" {
			t.Fatalf("%+v", p)
		}
		return true
	})
	g.kill()
	g.start()
	g.waitReady()
	if p := g.execute(job).refused(t, http.StatusForbidden); p.Reasons[0].Code != "budget_spent" {
		t.Errorf("after a restart: %+v", p)
	}
}

// So are the leases and the bytes that programs sent out and got.
func TestBudgetsOfWhatWasLentAndSentOut(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	for counter, most := range map[string]int{"leases_1h": 1, "egress_bytes_1h": 100} {
		t.Run(counter, func(t *testing.T) {
			l := newLending(t, vaulttest.Options{})
			l.budget = map[string]any{"tenant": map[string]int{counter: most}}
			l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), l.settings(t, ""))
			l.args = []string{"--config", l.config(t)}
			l.start()
			l.waitReady()
			body := l.psql(t, "SELECT answer FROM reports", "")
			if e := l.execute(body).ok(t); e.Stdout != "42\n" {
				t.Fatalf("%+v", e)
			}
			spent := func(when string) {
				t.Helper()
				if p := l.execute(body).refused(t, http.StatusForbidden); p.Reasons[0].Code != "budget_spent" {
					t.Errorf("%s: %+v", when, p)
				}
			}
			spent(fmt.Sprintf("%s above %d", counter, most))
			l.kill()
			l.start()
			l.waitReady()
			spent("after a restart")
		})
	}
}
