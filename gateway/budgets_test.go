package gateway_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// Of a thousand that ask at once, never more than a rule lets through run, though
// each is decided by itself.
func TestBudgetsHoldUnderARush(t *testing.T) {
	const limit, callers = 10, 1000
	w := newWorld()
	w.decide = func(q execution.Question) execution.Decision {
		if q.Counters.Running < limit {
			return allow()
		}
		return execution.Deny("", execution.Reason{Code: "budget_spent", Message: "spent"})
	}
	var running, most atomic.Int64
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		n := running.Add(1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		time.Sleep(time.Millisecond) // work
		running.Add(-1)
		return exited(0), nil
	}
	config := w.config()
	config.MaxRunning = callers
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	var rush sync.WaitGroup
	var through atomic.Int64
	for range callers {
		rush.Go(func() {
			if _, err := s.Execute(t.Context(), call()); err == nil {
				through.Add(1)
			} else if e := problemOf(err); e.Kind != execution.KindDenied {
				t.Error(err)
			}
		})
	}
	rush.Wait()
	if most.Load() > limit || through.Load() < 1 {
		t.Errorf("%d ran at once, %d came through: at most %d may run", most.Load(), through.Load(), limit)
	}
	var after execution.Question
	w.decide = func(q execution.Question) execution.Decision { after = q; return allow() }
	if _, err := s.Execute(t.Context(), call()); err != nil {
		t.Fatal(err)
	}
	if after.Counters.Running != 0 || after.Counters.Executions1M != through.Load() {
		t.Errorf("afterwards %+v: want %d executions, and none running", after.Counters, through.Load())
	}
}

// Leases are lent only when an execution has been let through: those that others may
// still be lent count, so that a rush gets no more of them than a rule lets through.
func TestLeasesHoldUnderARush(t *testing.T) {
	const limit, callers = 7, 200
	w := newWorld()
	w.decide = func(q execution.Question) execution.Decision {
		if q.Counters.Leases1H < limit {
			return allow("github")
		}
		return execution.Deny("", execution.Reason{Code: "budget_spent", Message: "spent"})
	}
	var lent atomic.Int64
	w.lend = func() ([]execution.Lease, error) {
		lent.Add(1)
		return []execution.Lease{{Tool: "github", ID: "l1"}}, nil
	}
	config := w.config()
	config.MaxRunning = callers
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	var rush sync.WaitGroup
	for range callers {
		rush.Go(func() {
			c := call()
			c.Request.Tools = []string{"github"}
			if _, err := s.Execute(t.Context(), c); err != nil && problemOf(err).Kind != execution.KindDenied {
				t.Error(err)
			}
		})
	}
	rush.Wait()
	if lent.Load() != limit {
		t.Errorf("%d leases were lent, want %d", lent.Load(), limit)
	}
}

// What an execution used counts also where it failed, or its caller has left: nobody
// saves their budget by that.
func TestUsageOfWhatFailedCounts(t *testing.T) {
	for name, fails := range map[string]func(context.CancelFunc) error{
		"the engine": func(context.CancelFunc) error { return errors.New("it broke") },
		"the caller": func(leave context.CancelFunc) error { leave(); return context.Canceled },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			var q execution.Question
			w.decide = func(asked execution.Question) execution.Decision { q = asked; return allow() }
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{Usage: execution.Usage{CPUMS: 40, EgressBytes: 9}}, fails(leave)
			}
			s := w.service(t)
			_, _ = s.Execute(ctx, call()) // its end is not what is asked here
			if _, err := s.Explain(t.Context(), call(), false); err != nil {
				t.Fatal(err)
			}
			if want := (execution.Counters{Executions1M: 1, CPUMS1H: 40, EgressBytes1H: 9}); q.Counters != want {
				t.Errorf("%+v is counted, want %+v", q.Counters, want)
			}
		})
	}
}

// What was used is counted for the tenant and for the principal, whatever became
// of it; what was denied, or has to be approved first, is not.
func TestWhatIsCounted(t *testing.T) {
	w := newWorld()
	var q execution.Question
	decision := allow()
	w.decide = func(asked execution.Question) execution.Decision { q = asked; return decision }
	result := exited(0)
	result.Usage.CPUMS = 40
	w.execute = func(context.Context, execution.Job) (execution.Result, error) { return result, nil }
	s := w.service(t)
	run := func(subject string) {
		c := call()
		c.Principal.Subject = subject
		_, _ = s.Execute(t.Context(), c) // its end is not what is asked here
	}
	run("ann")
	run("bob")
	decision = execution.Deny("", execution.Reason{Code: "no", Message: "no"})
	run("ann")
	decision = allow()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) { panic("as told") }
	run("ann")
	run("ann")
	want := execution.Counters{Executions1M: 3, CPUMS1H: 80}
	if q.Counters != want {
		t.Errorf("the tenant's are %+v, want %+v", q.Counters, want)
	}
	if want := (execution.Counters{Executions1M: 2, CPUMS1H: 40}); q.PrincipalCounters != want {
		t.Errorf("the principal's are %+v, want %+v", q.PrincipalCounters, want)
	}
	if e, err := s.Explain(t.Context(), call(), false); err != nil || !e.Decision.Allowed() || q.Counters.Executions1M != 4 {
		t.Errorf("explained: %v, %+v", err, q.Counters)
	}
}
