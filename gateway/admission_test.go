package gateway_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

func TestNoMoreThanMayRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		release := make(chan struct{})
		w.execute = func(context.Context, execution.Job) (execution.Result, error) { <-release; return exited(0), nil }
		running := make(chan int, 4)
		w.decide = func(q execution.Question) execution.Decision { running <- int(q.Counters.Running); return allow() }
		config := w.config()
		config.MaxRunning = 3
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		for i, tenant := range []string{"acme", "acme", "other"} {
			c := call()
			c.Principal.Tenant = tenant
			go s.Execute(t.Context(), c)
			// Each question counts the tenant's own executions, and no other's.
			if got, want := <-running, []int{0, 1, 0}[i]; got != want {
				t.Errorf("execution %d of %s: running %d, want %d", i, tenant, got, want)
			}
		}
		synctest.Wait()
		before := w.history()
		_, err = s.Execute(t.Context(), call())
		if e := problemOf(err); e.Kind != execution.KindSaturated || e.RetryAfter <= 0 || w.history() != before {
			t.Errorf("error %+v: want saturated, and nothing touched", e)
		}
		if n := s.Counts(); n.Running != 3 || n.Saturated != 1 {
			t.Errorf("counts %+v", n)
		}
		close(release)
		synctest.Wait()
		if _, err := s.Execute(t.Context(), call()); err != nil || <-running != 0 || s.Counts().Running != 0 {
			t.Errorf("after the others ended: %v", err)
		}
	})
}

// A flood from one tenant does not take the slots of another, whether it is
// refused or queued.
func TestReservedSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		release := make(chan struct{})
		w.execute = func(context.Context, execution.Job) (execution.Result, error) { <-release; return exited(0), nil }
		config := w.config()
		config.MaxRunning, config.MaxQueued, config.Reserved = 4, 2, map[string]int{"vip": 2}
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(tenant string, queue bool) error {
			c := call()
			c.Principal.Tenant, c.Queue = tenant, queue
			failed := make(chan error, 1)
			go func() { _, err := s.Execute(t.Context(), c); failed <- err }()
			synctest.Wait()
			select {
			case err := <-failed:
				return err
			default:
				return nil
			}
		}
		for i := range 6 {
			if err := ask("flood", i > 3); (i < 2 || i > 3) != (err == nil) {
				t.Errorf("flood %d: %v", i, err)
			}
		}
		if n := s.Counts(); n.Running != 2 || n.Queued != 2 || n.Saturated != 2 {
			t.Errorf("%+v", n)
		}
		for i := range 3 {
			if err := ask("vip", false); (i < 2) != (err == nil) {
				t.Errorf("vip %d: %v", i, err)
			}
		}
		if n := s.Counts(); n.Running != 4 || n.Queued != 2 {
			t.Errorf("%+v", n)
		}
		if err := ask("vip", true); err != nil {
			t.Errorf("vip is not queued: %v", err)
		}
		if err := ask("flood", true); problemOf(err).Code != "queue_full" {
			t.Errorf("flood past the queue: %v", err)
		}
		for range 7 {
			release <- struct{}{}
			synctest.Wait()
		}
		if n := s.Counts(); n.Running != 0 || n.Queued != 0 {
			t.Errorf("%+v", n)
		}
		// Past its own slots a tenant shares with the others.
		for i := range 5 {
			if err := ask("vip", false); (i < 4) != (err == nil) {
				t.Errorf("vip alone, %d: %v", i, err)
			}
		}
		close(release)
	})
}

func TestDrainWaitsForWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
			select {
			case <-time.After(10 * time.Second):
				return exited(0), nil
			case <-ctx.Done():
				return execution.Result{Outcome: execution.OutcomeCancelled}, nil
			}
		}
		s := w.service(t)
		go s.Execute(t.Context(), call())
		synctest.Wait()
		began := time.Now()
		drained := make(chan error)
		go func() { drained <- s.Drain(t.Context()) }()
		synctest.Wait()
		_, err := s.Execute(t.Context(), call())
		if e := problemOf(err); e.Kind != execution.KindUnavailable || e.Code != "draining" || e.RetryAfter <= 0 {
			t.Errorf("new work: %+v, want draining", e)
		}
		if s.Ready(t.Context()) == nil {
			t.Error("ready while draining")
		}
		if err := <-drained; err != nil || time.Since(began) != 10*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeExited {
			t.Errorf("records %+v", r)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("draining again: %v", err)
		}
	})
}

// Invariant 5: what is still running when the time is up is cancelled, and its
// end is recorded before Drain returns.
func TestDrainCancelsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // killing and removing takes its time
			return execution.Result{Outcome: execution.OutcomeCancelled}, nil
		}
		s := w.service(t)
		go s.Execute(t.Context(), call())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Drain(ctx); err != nil || time.Since(began) != 6*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeCancelled {
			t.Errorf("records %+v", r)
		}
	})
}

func TestDrainGivesUpOnAnExecutorThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		release := make(chan struct{})
		w.execute = func(context.Context, execution.Job) (execution.Result, error) { <-release; return exited(0), nil }
		s := w.service(t)
		go s.Execute(t.Context(), call())
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Drain(ctx); err == nil {
			t.Error("an execution is left and Drain says nothing of it")
		}
		close(release)
	})
}
