package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// Metrics are of all tenants: only the auditors of the gateway's own tenant, and
// its admins, read them; where there are none there is nothing to read.
func TestWhoReadsMetrics(t *testing.T) {
	asked := 0
	s := serve(t, newWorld(), func(c *gateway.Config) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Content-Type", "text/plain")
			w.Write([]byte("execgate_up 1\n"))
		})
	})
	for _, test := range []struct {
		token  string
		status int
	}{
		{"auditor/default", 200}, {"admin/default", 200}, {"auditor/acme", 403}, {"admin/acme", 403},
		{"caller/default", 403}, {"approver/default", 403}, {"policy_author/default", 403}, {"wrong", 401}, {"", 401},
	} {
		before := asked
		a := s.do("GET", "/metrics", test.token, "", "Accept", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
		if a.StatusCode != test.status || (asked > before) != (test.status == 200) {
			t.Errorf("%q: %d, the metrics were asked %d times", test.token, a.StatusCode, asked-before)
		}
		if test.status == 200 && (a.body != "execgate_up 1\n" || a.Header.Get("Cache-Control") != "no-store") {
			t.Errorf("%q %v", a.body, a.Header)
		}
	}
	if a := serve(t, newWorld(), nil).do("GET", "/metrics", "auditor/default", ""); a.StatusCode != 404 {
		t.Errorf("without metrics: %d", a.StatusCode)
	}
}

func TestCountsByKind(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	execute := func() { s.Execute(t.Context(), call()) } // the counts say what came of it
	execute()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		return execution.Result{Outcome: execution.OutcomeTimedOut, Usage: execution.Usage{Warm: true}}, nil
	}
	execute()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		return execution.Result{}, errors.New("lost")
	}
	execute()
	mustOpen(t, s)
	w.decide = func(execution.Question) execution.Decision {
		return execution.Decision{Effect: execution.EffectRequireApproval}
	}
	execute()
	drained, cancel := context.WithCancel(t.Context())
	cancel()
	s.Drain(drained)
	execute()
	n := s.Counts()
	for decided, want := range map[gateway.Decided]uint64{
		{Action: execution.ActionExecute, Effect: execution.EffectAllow}: 3, {Action: execution.ActionExecute, Effect: execution.EffectDeny}: 1,
		{Action: execution.ActionSession, Effect: execution.EffectAllow}: 1, {Action: execution.ActionSession, Effect: execution.EffectDeny}: 0,
	} {
		if n.Decisions[decided] != want {
			t.Errorf("%+v: %d, want %d", decided, n.Decisions[decided], want)
		}
	}
	for ended, want := range map[gateway.Ended]uint64{
		{Outcome: execution.OutcomeExited}: 1, {Outcome: execution.OutcomeTimedOut, Warm: true}: 1,
		{Outcome: execution.OutcomeEngineFailed}: 1, {Outcome: execution.OutcomeTimedOut}: 0,
	} {
		if got, ok := n.Ended[ended]; got != want || !ok {
			t.Errorf("%+v: %d, want %d", ended, got, want)
		}
	}
	if n.Refused["draining"] != 1 || n.Refused["queue_full"] != 0 || len(n.Decisions) != 7 || len(n.Refused) != 5 {
		t.Errorf("%+v", n)
	}
}
