package gateway_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

// The record of the beginning stands between those of the decision and of the end, and
// says how long after the decision it was.
func TestBeginningIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision { return allow("github") }
		w.lend = func() ([]execution.Lease, error) { time.Sleep(30 * time.Millisecond); return nil, nil }
		w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
			time.Sleep(12 * time.Millisecond)
			job.Started(execution.StartReuse)
			time.Sleep(time.Second)
			return exited(0), nil
		}
		response, err := w.service(t).Execute(t.Context(), call())
		if err != nil {
			t.Fatal(err)
		}
		if w.history() != "resolve decide decided lend execute started revoke ended" {
			t.Errorf("history %q", w.history())
		}
		principal := caller()
		want := execution.Record{
			Seq: 1, Type: execution.RecordStarted, Time: time.Now().UTC().Add(-time.Second), Execution: response.ID,
			Principal: &principal, RequestID: call().RequestID, TraceID: call().TraceID,
			Started: &execution.Started{DecidedSeq: 0, Start: execution.StartReuse, WaitMS: 42},
		}
		if diff := cmp.Diff(want, w.recorded()[1]); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		if diff := cmp.Diff([]uint64{0, 2}, response.Records); diff != "" {
			t.Errorf("records of the response, -want +got\n%s", diff)
		}
	})
}

// What does not begin has no record of it.
func TestWhatDoesNotBeginIsNotRecorded(t *testing.T) {
	w := newWorld()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		return execution.Result{}, errors.New("the engine is gone")
	}
	if _, err := w.service(t).Execute(t.Context(), call()); err == nil {
		t.Error("no error")
	}
	if w.history() != "resolve decide decided execute ended" {
		t.Errorf("history %q", w.history())
	}
}

// A beginning that cannot be recorded is counted, and the execution goes on: its
// decision is recorded, and its end will be.
func TestBeginningThatIsLostEndsNothing(t *testing.T) {
	for name, fail := range map[string]func() error{
		"refused": func() error { return errors.New("no space left on device") },
		"panics":  func() error { panic("segment") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.append = func(_ context.Context, r execution.Record) error {
				if r.Type == execution.RecordStarted {
					return fail()
				}
				return nil
			}
			w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
				job.Started(execution.StartCold)
				return exited(0), nil
			}
			s := w.service(t)
			response, err := s.Execute(t.Context(), call())
			if err != nil || response.Result.Outcome != execution.OutcomeExited {
				t.Errorf("outcome %s, %v", response.Result.Outcome, err)
			}
			if n := s.Counts(); n.StartsLost != 1 || n.AuditFailed != 0 {
				t.Errorf("%d beginnings lost, %d failures", n.StartsLost, n.AuditFailed)
			}
			if err := s.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if got := w.recorded(); len(got) != 2 || got[1].Ended == nil {
				t.Errorf("records %+v", got)
			}
		})
	}
}
