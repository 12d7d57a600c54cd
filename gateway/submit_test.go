package gateway_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// ended waits for the end of st and returns its body.
func ended(t *testing.T, st gateway.Standing, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if st, err = st.Wait(t.Context()); err != nil || st.State != gateway.StateEnded {
		t.Fatalf("%+v, %v", st, err)
	}
	return string(st.Body)
}

// The key is durable, then the decision, then that the execution exists; and
// only then something happens.
func TestOrderOfSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision { return allow("github") }
		w.memory.failing(func(doing string) error { w.saw(doing); return nil })
		s := w.service(t)
		st, err := s.Submit(t.Context(), call(), "k")
		body := ended(t, st, err)
		if want := "claim resolve decide decided save queued lend execute revoke ended save ended"; w.history() != want {
			t.Errorf("order %q, want %q", w.history(), want)
		}
		if !strings.Contains(body, `"id":"`+st.ID+`"`) || !strings.Contains(body, `"records":[0,1]`) || st.Again {
			t.Errorf("%s", body)
		}
	})
}

func TestSubmittedGoesOnWithoutItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
			select {
			case <-ctx.Done():
				return execution.Result{Outcome: execution.OutcomeCancelled}, nil
			case <-time.After(time.Hour):
				return exited(0), nil
			}
		}
		s := w.service(t)
		ctx, hangUp := context.WithCancel(t.Context())
		st, err := s.Submit(ctx, call(), "")
		hangUp()
		if st.State != gateway.StateRunning {
			t.Errorf("state %s", st.State)
		}
		if body := ended(t, st, err); !strings.Contains(body, `"outcome":"exited"`) {
			t.Error(body)
		}
	})
}

func TestSubmittedIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		turn := make(chan struct{})
		w.execute = func(context.Context, execution.Job) (execution.Result, error) { <-turn; return exited(0), nil }
		var running []int
		w.decide = func(q execution.Question) execution.Decision {
			running = append(running, int(q.Counters.Running))
			return allow()
		}
		config := w.config()
		config.MaxRunning, config.MaxQueued = 1, 2
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		c := call()
		c.Queue = true
		var all []gateway.Standing
		for i, want := range []gateway.State{gateway.StateRunning, gateway.StateQueued, gateway.StateQueued} {
			st, err := s.Submit(t.Context(), c, "")
			if synctest.Wait(); err != nil {
				t.Fatal(err)
			}
			if st, err = s.Look(t.Context(), caller(), st.ID); err != nil || st.State != want {
				t.Errorf("%d is %s, %v; want %s", i, st.State, err, want)
			}
			all = append(all, st)
		}
		// Each was decided at once, and those that wait count as under way.
		if len(w.recorded()) != 3 || running[2] != 2 || s.Counts().Queued != 2 {
			t.Errorf("%d records, running %v, %+v", len(w.recorded()), running, s.Counts())
		}
		if _, err := s.Submit(t.Context(), c, "key"); problemOf(err).Code != "queue_full" || problemOf(err).RetryAfter <= 0 {
			t.Errorf("past the bound: %v", err)
		}
		for i, st := range all {
			turn <- struct{}{}
			ended(t, st, nil)
			if n := s.Counts(); n.Queued != max(0, 1-i) {
				t.Errorf("after %d: %+v", i, n)
			}
		}
		if n := s.Counts(); n.Running != 0 || n.Queued != 0 {
			t.Errorf("%+v", n)
		}
		close(turn) // what was refused left its key free
		st, err := s.Submit(t.Context(), c, "key")
		ended(t, st, err)
	})
}

func TestOneExecutionForOneKey(t *testing.T) {
	for name, memory := range map[string]gateway.Executions{"memory": &memory{}, "disk": onDisk(t, filepath.Join(t.TempDir(), "store.db"))} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			config := w.config()
			config.Executions, config.MaxRunning = memory, 100
			s, err := gateway.NewService(config)
			if err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			bodies := make([]string, 32)
			for i := range bodies {
				group.Go(func() {
					st, err := s.Submit(t.Context(), call(), "k")
					if err == nil {
						st, err = st.Wait(t.Context())
					}
					if err != nil {
						t.Error(err)
					}
					bodies[i] = string(st.Body)
				})
			}
			group.Wait()
			for _, body := range bodies {
				if body == "" || body != bodies[0] {
					t.Fatalf("%q and %q", body, bodies[0])
				}
			}
			if n := strings.Count(w.history(), "execute"); n != 1 {
				t.Errorf("%d executions", n)
			}
			other := call()
			other.Request.Code = "print(2)"
			if _, err := s.Submit(t.Context(), other, "k"); execution.KindOf(err) != "unprocessable" {
				t.Errorf("another body: %v", err)
			}
			other.Principal.Subject = "ak_other"
			if st, err := s.Submit(t.Context(), other, "k"); err != nil || st.Again {
				t.Errorf("the same key of another principal: %+v, %v", st, err)
			}
			other.Principal.Subject, other.Principal.Tenant = caller().Subject, "other"
			if st, err := s.Submit(t.Context(), other, "k"); err != nil || st.Again {
				t.Errorf("the same key in another tenant: %+v, %v", st, err)
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What was refused before it was decided did not happen, and its key is free.
func TestRefusalFreesTheKey(t *testing.T) {
	tests := map[string]struct {
		refuse, allow func(*world)
		code          string
	}{
		"log down": {
			func(w *world) {
				w.append = func(context.Context, execution.Record) error { return errors.New("full") }
			},
			func(w *world) { w.append = func(context.Context, execution.Record) error { return nil } }, "audit_unavailable",
		},
		"unknown image": {
			func(w *world) {
				w.image = func(string, string) (execution.Image, error) {
					return execution.Image{}, &execution.Error{Kind: execution.KindNotFound, Code: "unknown"}
				}
			},
			func(w *world) { w.image = newWorld().image }, "unknown",
		},
		"no engine": {
			func(w *world) {
				w.image = func(string, string) (execution.Image, error) {
					return execution.Image{}, &execution.Error{Kind: execution.KindUnavailable}
				}
			},
			func(w *world) { w.image = newWorld().image }, "engine_unavailable",
		},
		"memory down": {
			func(w *world) { w.memory.failing(func(string) error { return errors.New("disk") }) },
			func(w *world) { w.memory.failing(nil) }, "executions_unavailable",
		},
		"cannot be released": {
			func(w *world) {
				w.append = func(context.Context, execution.Record) error { return errors.New("full") }
				w.memory.failing(func(doing string) error {
					if doing == "release" {
						return errors.New("disk")
					}
					return nil
				})
			},
			func(w *world) {
				w.append = func(context.Context, execution.Record) error { return nil }
				w.memory.failing(nil)
			}, "audit_unavailable",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			s := w.service(t)
			test.refuse(w)
			if _, err := s.Submit(t.Context(), call(), "k"); problemOf(err).Code != test.code {
				t.Errorf("%v, want %s", err, test.code)
			}
			if strings.Contains(w.history(), "execute") {
				t.Error("something ran")
			}
			test.allow(w)
			st, err := s.Submit(t.Context(), call(), "k")
			ended(t, st, err)
			if st.Again {
				t.Error("the key was held")
			}
		})
	}
}

func TestDenialIsAnAnswer(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		return execution.Deny("r", execution.Reason{Code: "no", Message: "not you"})
	}
	s := w.service(t)
	for again := range 2 {
		st, err := s.Submit(t.Context(), call(), "k")
		if err != nil || st.State != gateway.StateDenied || !strings.Contains(string(st.Body), `"code":"no"`) || st.Again != (again == 1) {
			t.Errorf("%+v, %v: %s", st, err, st.Body)
		}
	}
	if len(w.recorded()) != 1 {
		t.Errorf("decided %d times", len(w.recorded()))
	}
}

// An execution that cannot be remembered is not run: after a crash nobody could
// say that it had been.
func TestWhatCannotBeRememberedDoesNotRun(t *testing.T) {
	w := newWorld()
	w.memory.failing(func(doing string) error {
		if doing == "save queued" {
			return errors.New("disk")
		}
		return nil
	})
	s := w.service(t)
	if _, err := s.Submit(t.Context(), call(), "k"); problemOf(err).Code != "executions_unavailable" {
		t.Errorf("%v", err)
	}
	if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeEngineFailed || strings.Contains(w.history(), "execute") {
		t.Errorf("history %q", w.history())
	}
}

// A result that cannot be kept is given to those who wait, and then lost; it is
// not made a second time.
func TestResultThatCannotBeKept(t *testing.T) {
	w := newWorld()
	w.memory.failing(func(doing string) error {
		if doing == "save ended" {
			return errors.New("disk")
		}
		return nil
	})
	s := w.service(t)
	st, err := s.Submit(t.Context(), call(), "k")
	if body := ended(t, st, err); !strings.Contains(body, `"outcome":"exited"`) {
		t.Error(body)
	}
	if err := s.Drain(t.Context()); err != nil { // it is no longer live
		t.Fatal(err)
	}
	st, err = s.Look(t.Context(), caller(), st.ID)
	if body := ended(t, st, err); !strings.Contains(body, `"outcome":"unknown_crash"`) {
		t.Error(body)
	}
	st, err = s.Submit(t.Context(), call(), "k")
	if body := ended(t, st, err); !strings.Contains(body, `"outcome":"unknown_crash"`) || !st.Again {
		t.Error(body)
	}
}

// After a crash, with the same store: what ran has ended as unknown_crash, and
// its key does not run it again; what had not been decided runs.
func TestKeysAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	w := newWorld()
	config := w.config()
	config.Executions = onDisk(t, path)
	release := make(chan struct{})
	defer close(release)
	w.execute = func(context.Context, execution.Job) (execution.Result, error) { <-release; return exited(0), nil }
	before, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	ran, err := before.Submit(t.Context(), call(), "ran")
	if err != nil {
		t.Fatal(err)
	}
	sum, _ := call().Request.SHA256()
	for _, key := range []string{"decided", "reserved"} {
		if _, err := config.Executions.Claim(t.Context(), gateway.Stored{
			ID: "ex_" + key, Tenant: caller().Tenant, Subject: caller().Subject, Key: key, RequestSHA256: sum, Expires: time.Now().Add(time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
	}

	w2 := newWorld()
	config = w2.config()
	config.Executions = onDisk(t, path)
	after, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := after.CloseUnended(t.Context(), []gateway.Unended{
		{Execution: ran.ID, DecidedSeq: 7, Principal: caller()}, {Execution: "ex_decided", DecidedSeq: 9, Principal: caller()},
	}); err != nil {
		t.Fatal(err)
	}
	st, err := after.Look(t.Context(), caller(), ran.ID)
	if body := ended(t, st, err); !strings.Contains(body, `"outcome":"unknown_crash"`) || !strings.Contains(body, `"revision":"sha256:rev"`) {
		t.Error(body)
	}
	for key, again := range map[string]bool{"ran": true, "decided": true, "reserved": false} {
		st, err := after.Submit(t.Context(), call(), key)
		if body := ended(t, st, err); st.Again != again || strings.Contains(body, "unknown_crash") != again {
			t.Errorf("%s: %+v %s", key, st, body)
		}
	}
	if n := strings.Count(w2.history(), "execute"); n != 1 {
		t.Errorf("%d executions", n)
	}
}

func TestResultsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		config := w.config()
		config.KeepResults = time.Hour
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := s.Submit(t.Context(), call(), "")
		ended(t, plain, err)
		keyed, err := s.Submit(t.Context(), call(), "k")
		ended(t, keyed, err)
		time.Sleep(time.Hour + time.Second)
		if _, err := s.Look(t.Context(), caller(), plain.ID); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("past its time: %v", err)
		}
		if st, err := s.Submit(t.Context(), call(), "k"); err != nil || st.ID != keyed.ID {
			t.Errorf("a key is kept for 24 hours: %+v, %v", st, err)
		}
		time.Sleep(23 * time.Hour)
		if st, err := s.Submit(t.Context(), call(), "k"); err != nil || st.ID == keyed.ID {
			t.Errorf("and then it is free: %+v, %v", st, err)
		}
		synctest.Wait()
	})
}

func TestDrainWaitsForTheQueueAndForWhatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.execute = func(context.Context, execution.Job) (execution.Result, error) {
			time.Sleep(10 * time.Second)
			return exited(0), nil
		}
		w.memory.failing(func(doing string) error {
			if doing == "save ended" {
				time.Sleep(time.Second)
			}
			return nil
		})
		config := w.config()
		config.MaxRunning = 1
		s, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		c := call()
		c.Queue = true
		var last gateway.Standing
		for range 2 {
			if last, err = s.Submit(t.Context(), c, ""); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := s.Drain(t.Context()); err != nil || time.Since(began) != 21*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if row, err := w.memory.Load(t.Context(), last.ID); err != nil || row.State != "ended" {
			t.Errorf("%+v, %v", row, err)
		}
		if _, err := s.Submit(t.Context(), c, "k"); problemOf(err).Code != "draining" {
			t.Errorf("new work: %v", err)
		}
	})
}
