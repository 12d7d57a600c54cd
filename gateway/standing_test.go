package gateway_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// hanging runs until it is cancelled, and then takes its time to end.
func hanging(w *world, dying time.Duration) {
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		<-ctx.Done()
		time.Sleep(dying)
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil
	}
}

func TestWhoMaySeeAnExecution(t *testing.T) {
	w := newWorld()
	s := w.service(t)
	st, err := s.Submit(t.Context(), call(), "")
	ended(t, st, err)
	principal := func(subject, tenant string, role execution.Role) execution.Principal {
		return execution.Principal{Subject: subject, Tenant: tenant, Roles: []execution.Role{role}}
	}
	for name, test := range map[string]struct {
		who  execution.Principal
		sees bool
	}{
		"who asked":                      {caller(), true},
		"an admin of the tenant":         {principal("ak_admin", "acme", execution.RoleAdmin), true},
		"another caller of the tenant":   {principal("ak_2", "acme", execution.RoleCaller), false},
		"the same subject elsewhere":     {principal("ak_caller", "other", execution.RoleCaller), false},
		"an admin of another tenant":     {principal("ak_admin", "other", execution.RoleAdmin), false},
		"an admin of the operator":       {principal("ak_admin", "default", execution.RoleAdmin), false},
		"an approver, an auditor, so on": {principal("ak_2", "acme", execution.RoleAuditor), false},
	} {
		got, err := s.Look(t.Context(), test.who, st.ID)
		if test.sees != (err == nil) || test.sees != (got.ID == st.ID) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		_, cancelErr := s.Cancel(t.Context(), test.who, st.ID)
		if test.sees != (execution.KindOf(cancelErr) == execution.KindConflict) {
			t.Errorf("%s cancels: %v", name, cancelErr)
		}
		// What is hidden looks like what is not there.
		_, missing := s.Look(t.Context(), test.who, execution.NewID(execution.PrefixExecution, time.Now()))
		if !test.sees && (err.Error() != missing.Error() || cancelErr.Error() != missing.Error()) {
			t.Errorf("%s: %v, %v and %v", name, err, cancelErr, missing)
		}
	}
	for _, id := range []string{"", "ex_", "ex_../../etc/passwd", st.ID + "x", "ak_" + st.ID[3:]} {
		if _, err := s.Look(t.Context(), caller(), id); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		hanging(w, time.Second)
		config := w.config()
		config.MaxRunning = 1
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		c := call()
		c.Queue = true
		running, err := s.Submit(t.Context(), c, "")
		if err != nil {
			t.Fatal(err)
		}
		queued, err := s.Submit(t.Context(), c, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range []gateway.Standing{queued, running, running, queued} { // and each again
			if ended, err := s.Cancel(t.Context(), caller(), st.ID); !ended || err != nil {
				t.Errorf("%v, %v", ended, err)
			}
		}
		outcomes := map[string]execution.Outcome{}
		for _, r := range w.recorded() {
			if r.Ended != nil {
				outcomes[r.Execution] = r.Ended.Outcome
			}
		}
		if outcomes[running.ID] != execution.OutcomeCancelled || outcomes[queued.ID] != execution.OutcomeCancelled {
			t.Errorf("%v", outcomes)
		}
		if n := s.Counts(); n.Running != 0 || n.Queued != 0 {
			t.Errorf("%+v", n)
		}
	})
}

func TestCancelDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		hanging(w, time.Minute)
		s := w.service(t)
		st, err := s.Submit(t.Context(), call(), "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until it runs: what has not begun is over at once
		began := time.Now()
		if ended, err := s.Cancel(t.Context(), caller(), st.ID); ended || err != nil || time.Since(began) != 10*time.Second {
			t.Errorf("%v, %v after %v", ended, err, time.Since(began))
		}
		time.Sleep(time.Minute)
	})
}

// One whose caller waits can be cancelled too, by the id in its records; after
// its end it is not remembered.
func TestCancelOfASynchronousExecution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		hanging(w, 0)
		s := w.service(t)
		answers := make(chan gateway.Response, 1)
		go func() {
			response, _ := s.Execute(t.Context(), call())
			answers <- response
		}()
		synctest.Wait()
		id := w.recorded()[0].Execution
		if st, err := s.Look(t.Context(), caller(), id); err != nil || st.State != gateway.StateRunning {
			t.Errorf("%+v, %v", st, err)
		}
		if ended, err := s.Cancel(t.Context(), caller(), id); !ended || err != nil {
			t.Errorf("%v, %v", ended, err)
		}
		if response := <-answers; response.Result.Outcome != execution.OutcomeCancelled {
			t.Errorf("%+v", response)
		}
		if _, err := s.Look(t.Context(), caller(), id); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%v", err)
		}
	})
}
