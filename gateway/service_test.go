package gateway_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

func problemOf(err error) *execution.Error {
	if e, ok := errors.AsType[*execution.Error](err); ok {
		return e
	}
	return &execution.Error{Kind: "not an execution.Error"}
}

func TestOneWayThrough(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	got, err := w.service(t).Execute(t.Context(), call())
	if err != nil {
		t.Fatal(err)
	}
	if want := "resolve decide decided lend execute revoke ended"; w.history() != want {
		t.Errorf("order %q, want %q", w.history(), want)
	}
	if !slices.Equal(got.Records, []uint64{0, 1}) || !got.Leases[0].Revoked || string(got.Result.Stdout) != "out" || !got.Decision.Allowed() {
		t.Errorf("response %+v", got)
	}

	records := w.recorded()
	for _, r := range records {
		if r.Execution != got.ID || r.RequestID != "rq_1" || r.TraceID != strings.Repeat("a", 32) || r.Time.IsZero() ||
			!cmp.Equal(*r.Principal, caller()) {
			t.Errorf("record %+v", r)
		}
	}
	decided := records[0].Decided
	if decided.CodeSHA256 != execution.HexSHA256([]byte("print(1)")) || decided.CodeBytes != 8 || decided.Image != "python" || !decided.Decision.Allowed() {
		t.Errorf("decided %+v", decided)
	}
	ended := records[1].Ended
	if ended.DecidedSeq != 0 || ended.Outcome != execution.OutcomeExited || *ended.ExitCode != 0 ||
		ended.StdoutSHA256 != execution.HexSHA256([]byte("out")) || !ended.Leases[0].Revoked {
		t.Errorf("ended %+v", ended)
	}
}

// Invariant 1: nothing with a side effect happens before its decision is
// durable. At every point where the decision may not be durable, neither the
// lender nor the executor has been touched.
func TestNothingHappensBeforeTheDecisionIsDurable(t *testing.T) {
	tests := []struct {
		name   string
		append func(context.Context, execution.Record) error
	}{
		{"log full", func(context.Context, execution.Record) error { return errors.New("no space left on device") }},
		{"log panics", func(context.Context, execution.Record) error { panic("segment") }},
		{"log hangs", func(ctx context.Context, _ execution.Record) error {
			<-ctx.Done()
			return ctx.Err()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.decide = func(execution.Question) execution.Decision { return allow("github") }
				w.append = test.append
				s := w.service(t)
				began := time.Now()
				got, err := s.Execute(t.Context(), call())
				if e := problemOf(err); e.Kind != execution.KindUnavailable || e.Code != "audit_unavailable" {
					t.Errorf("error %v, want audit_unavailable", err)
				}
				if w.history() != "resolve decide decided" || got.Result.Outcome != "" {
					t.Errorf("history %q, response %+v", w.history(), got)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("took %v, the budget is 2s", took)
				}
				if s.Ready(t.Context()) == nil {
					t.Error("the service calls itself ready after a lost record")
				}
				if n := s.Counts(); n.AuditFailed != 1 || n.Running != 0 {
					t.Errorf("counts %+v", n)
				}
				time.Sleep(30 * time.Second)
				if err := s.Ready(t.Context()); err != nil {
					t.Errorf("after 30s without failures: %v", err)
				}
			})
		})
	}
}

// A log has as long as it is given: no less, and no more.
func TestRecordsHaveTheirBudget(t *testing.T) {
	for _, budget := range []time.Duration{500 * time.Millisecond, 40 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.append = func(ctx context.Context, _ execution.Record) error {
				<-ctx.Done()
				return ctx.Err()
			}
			config := w.config()
			config.RecordBudget = budget
			s, err := gateway.NewService(config)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = s.Execute(t.Context(), call())
			if e := problemOf(err); e.Code != "audit_unavailable" || time.Since(began) != budget {
				t.Errorf("%v after %v, and not %v", err, time.Since(began), budget)
			}
		})
	}
}

// The decision is durable when the lender and the executor are called, not only
// under way.
func TestSideEffectsSeeADurableDecision(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	durable := func() {
		if r := w.recorded(); len(r) != 1 || r[0].Type != execution.RecordDecided {
			t.Errorf("records so far: %+v", r)
		}
	}
	w.lend = func() ([]execution.Lease, error) { durable(); return nil, nil }
	w.execute = func(context.Context, execution.Job) (execution.Result, error) { durable(); return exited(0), nil }
	if _, err := w.service(t).Execute(t.Context(), call()); err != nil {
		t.Fatal(err)
	}
}

// A result whose end is not durable is withheld, and leases are taken back.
func TestResultIsWithheldWithoutItsRecord(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	w.append = func(_ context.Context, r execution.Record) error {
		if r.Type == execution.RecordEnded {
			return errors.New("no space left on device")
		}
		return nil
	}
	got, err := w.service(t).Execute(t.Context(), call())
	if problemOf(err).Code != "audit_unavailable" || got.Result.Stdout != nil || got.Result.Outcome != "" {
		t.Errorf("response %+v, error %v", got, err)
	}
	if want := "resolve decide decided lend execute revoke ended"; w.history() != want {
		t.Errorf("order %q, want %q", w.history(), want)
	}
}

// Invariant 2, at the gateway: whatever is not an explicit and whole allow
// denies, is recorded as a denial, and runs nothing.
func TestAnythingButAWholeAllowDenies(t *testing.T) {
	changed := func(change func(*execution.Decision)) func(execution.Question) execution.Decision {
		return func(execution.Question) execution.Decision {
			d := allow("github")
			change(&d)
			return d
		}
	}
	tests := []struct {
		name, code string
		decide     func(execution.Question) execution.Decision
	}{
		{"zero", "policy_invalid", func(execution.Question) execution.Decision { return execution.Decision{} }},
		{"deny", "no_such_tool", func(execution.Question) execution.Decision {
			return execution.Deny("r", execution.Reason{Code: "no_such_tool", Message: "the tool is not yours"})
		}},
		{"approval", "policy_unsupported", changed(func(d *execution.Decision) { d.Effect = execution.EffectRequireApproval })},
		{"unknown effect", "policy_invalid", changed(func(d *execution.Decision) { d.Effect = "ALLOW" })},
		{"a limit is zero", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Limits.PIDs = 0 })},
		{"a limit is negative", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Limits.TimeoutMS = -1 })},
		{"another image", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Image = "sha256:2" })},
		{"no image", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Image = "" })},
		{"no runtime", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Runtime = "" })},
		{"a variable that was not granted", "policy_invalid", changed(func(d *execution.Decision) { d.Grant.Env = nil })},
		{"panic", "policy_error", func(execution.Question) execution.Decision { panic("rego") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			w.decide = test.decide
			c := call()
			c.Request.Env = map[string]string{"MODE": "test"}
			s := w.service(t)
			got, err := s.Execute(t.Context(), c)
			e := problemOf(err)
			if e.Kind != execution.KindDenied || len(e.Reasons) == 0 || e.Reasons[len(e.Reasons)-1].Code != test.code || e.Detail == "" {
				t.Errorf("error %+v, want denied with reason %s", e, test.code)
			}
			if w.history() != "resolve decide decided" {
				t.Errorf("history %q", w.history())
			}
			d := w.recorded()[0].Decided.Decision
			if d.Effect != execution.EffectDeny || d.Grant.Image != "" || d.Clamped == nil || got.ID == "" {
				t.Errorf("recorded %+v", d)
			}
			if n := s.Counts(); n.Denied != 1 || n.Started != 0 {
				t.Errorf("counts %+v", n)
			}
		})
	}
}

// Invariant 5, the gateway's part: whatever goes wrong, what was lent is taken
// back and the end is recorded.
func TestWhateverHappensIsUndoneAndRecorded(t *testing.T) {
	unavailable := &execution.Error{Kind: execution.KindUnavailable, Code: "engine_unavailable", Detail: "no engine", Err: errors.New("dial unix /run/docker.sock")}
	tests := []struct {
		name    string
		arrange func(*world)
		kind    execution.Kind
		code    string // in the record
		history string
	}{
		{"executor panics", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { panic("boom") }
		}, execution.KindInternal, "panic", "lend execute revoke ended"},
		{"executor fails", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, errors.New("odd")
			}
		}, execution.KindInternal, "internal", "lend execute revoke ended"},
		{"executor refuses as invalid", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, &execution.Error{Kind: execution.KindInvalid, Code: "control_missing"}
			}
		}, execution.KindInternal, "control_missing", "lend execute revoke ended"},
		{"engine unavailable", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, unavailable
			}
		}, execution.KindUnavailable, "engine_unavailable", "lend execute revoke ended"},
		{"no outcome", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { return execution.Result{}, nil }
		}, execution.KindInternal, "internal", "lend execute revoke ended"},
		{"lender fails", func(w *world) {
			w.lend = func() ([]execution.Lease, error) { return nil, errors.New("sealed") }
		}, execution.KindInternal, "internal", "lend revoke ended"},
		{"lender panics", func(w *world) {
			w.lend = func() ([]execution.Lease, error) { panic("vault") }
		}, execution.KindInternal, "panic", "lend revoke ended"},
		{"executor and revoker panic", func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { panic("boom") }
			w.revoke = func(context.Context) ([]execution.Lease, error) { panic("vault") }
		}, execution.KindInternal, "panic", "lend execute revoke ended"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			w.decide = func(execution.Question) execution.Decision { return allow("github") }
			test.arrange(w)
			s := w.service(t)
			got, err := s.Execute(t.Context(), call())
			if execution.KindOf(err) != test.kind || got.Result.Outcome != "" {
				t.Errorf("error %v, response %+v; want %s", err, got, test.kind)
			}
			if want := "resolve decide decided " + test.history; w.history() != want {
				t.Errorf("order %q, want %q", w.history(), want)
			}
			ended := w.recorded()[1].Ended
			if ended.Outcome != execution.OutcomeEngineFailed || ended.Error != test.code || ended.ExitCode != nil {
				t.Errorf("ended %+v, want engine_failed with %s", ended, test.code)
			}
			if n := s.Counts(); n.Running != 0 || n.EngineFailed != 1 {
				t.Errorf("counts %+v", n)
			}
		})
	}
}

func TestFailedRevocationShows(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	w.revoke = func(context.Context) ([]execution.Lease, error) { return nil, errors.New("vault sealed") }
	s := w.service(t)
	got, err := s.Execute(t.Context(), call())
	if err != nil || len(got.Leases) != 1 || got.Leases[0].Revoked {
		t.Errorf("leases %+v, error %v; want one that is not revoked", got.Leases, err)
	}
	if ended := w.recorded()[1].Ended; len(ended.Leases) != 1 || ended.Leases[0].Revoked || s.Counts().RevokeFailed != 1 {
		t.Errorf("ended %+v", ended)
	}
}

// Invariant 5: a caller that hangs up stops the program; its leases are taken
// back and its end recorded all the same, on time that is not the caller's.
func TestCallerHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision { return allow("github") }
		ctx, hangUp := context.WithCancel(t.Context())
		w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
			hangUp()
			<-ctx.Done()
			return execution.Result{Outcome: execution.OutcomeCancelled}, nil
		}
		alive := func(ctx context.Context) error {
			if deadline, ok := ctx.Deadline(); ctx.Err() != nil || !ok || time.Until(deadline) > 10*time.Second {
				t.Errorf("context of the cleanup: %v, deadline %v", ctx.Err(), deadline)
			}
			return nil
		}
		w.revoke = func(ctx context.Context) ([]execution.Lease, error) { return nil, alive(ctx) }
		w.append = func(ctx context.Context, _ execution.Record) error { return alive(ctx) }
		got, err := w.service(t).Execute(ctx, call())
		if err != nil || got.Result.Outcome != execution.OutcomeCancelled {
			t.Errorf("response %+v, error %v", got, err)
		}
		if ended := w.recorded()[1].Ended; ended.Outcome != execution.OutcomeCancelled {
			t.Errorf("ended %+v", ended)
		}
	})
}

func TestCallerHangsUpWhileItIsDecided(t *testing.T) {
	w := newWorld()
	ctx, hangUp := context.WithCancel(t.Context())
	w.decide = func(execution.Question) execution.Decision { hangUp(); return allow("github") }
	if _, err := w.service(t).Execute(ctx, call()); err != nil {
		t.Error(err)
	}
	if w.history() != "resolve decide decided ended" || w.recorded()[1].Ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("history %q: nothing is lent or run for a caller that is gone, and what was decided is ended", w.history())
	}
}

func TestImagesDecideWhatCanBeAsked(t *testing.T) {
	tests := []struct {
		name, history string
		err           error
		kind          execution.Kind
	}{
		{"unknown image", "resolve", &execution.Error{Kind: execution.KindNotFound, Detail: "images: python"}, execution.KindNotFound},
		{"unknown language", "resolve", &execution.Error{Kind: execution.KindInvalid, Detail: "languages: python"}, execution.KindInvalid},
		{"fault", "resolve", errors.New("odd"), execution.KindInternal},
		// It could not be decided, which is a denial of ours, and recorded.
		{"no engine", "resolve decided", &execution.Error{Kind: execution.KindUnavailable, RetryAfter: 3 * time.Second}, execution.KindUnavailable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			w.image = func(string, string) (execution.Image, error) { return execution.Image{}, test.err }
			_, err := w.service(t).Execute(t.Context(), call())
			if execution.KindOf(err) != test.kind || w.history() != test.history {
				t.Errorf("error %v, history %q", err, w.history())
			}
			if test.kind == execution.KindUnavailable {
				d := w.recorded()[0].Decided.Decision
				if d.Effect != execution.EffectDeny || d.Reasons[0].Code != execution.CodeEngineUnavailable {
					t.Errorf("decision %+v", d)
				}
				if e := problemOf(err); e.Code != execution.CodeEngineUnavailable || e.RetryAfter != 3*time.Second {
					t.Errorf("error %+v", e)
				}
			}
		})
	}
}

func TestQuestionIsWhole(t *testing.T) {
	w := newWorld()
	var q execution.Question
	w.decide = func(asked execution.Question) execution.Decision { q = asked; return allow() }
	got, err := w.service(t).Execute(t.Context(), call())
	if err != nil {
		t.Fatal(err)
	}
	sum, _ := call().Request.SHA256()
	want := execution.Question{
		ID: got.ID, Time: q.Time, TraceID: strings.Repeat("a", 32), Principal: caller(), Action: execution.ActionExecute,
		Request: call().Request, RequestSHA256: sum, Image: execution.Image{Name: "python", Digest: digest},
	}
	if diff := cmp.Diff(want, q); diff != "" || !execution.ValidID(execution.PrefixExecution, q.ID) || time.Since(q.Time) > time.Minute {
		t.Errorf("question (-want +got):\n%s", diff)
	}
}

func TestNewServiceRefusesTheUnsafe(t *testing.T) {
	for name, change := range map[string]func(*gateway.ServiceConfig){
		"images":             func(c *gateway.ServiceConfig) { c.Images = nil },
		"decider":            func(c *gateway.ServiceConfig) { c.Decider = nil },
		"lender":             func(c *gateway.ServiceConfig) { c.Lender = nil },
		"executor":           func(c *gateway.ServiceConfig) { c.Executor = nil },
		"recorder":           func(c *gateway.ServiceConfig) { c.Recorder = nil },
		"executions":         func(c *gateway.ServiceConfig) { c.Executions = nil },
		"of 4 for everybody": func(c *gateway.ServiceConfig) { c.MaxRunning, c.Reserved = 4, map[string]int{"a": 1, "b": 3} },
		"reserved":           func(c *gateway.ServiceConfig) { c.Reserved = map[string]int{"a": 0} },
		"bound":              func(c *gateway.ServiceConfig) { c.MaxQueued = -1 },
		"logger":             func(c *gateway.ServiceConfig) { c.Logger = nil },
		"negative":           func(c *gateway.ServiceConfig) { c.MaxRunning = -1 },
	} {
		config := newWorld().config()
		change(&config)
		if _, err := gateway.NewService(config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Nobody runs anything without being somebody.
func TestNobodyRunsNothing(t *testing.T) {
	w := newWorld()
	c := call()
	c.Principal = execution.Principal{}
	if _, err := w.service(t).Execute(t.Context(), c); execution.KindOf(err) != execution.KindInternal || w.history() != "" {
		t.Errorf("error %v, history %q", err, w.history())
	}
}

func TestCloseUnended(t *testing.T) {
	w := newWorld()
	s := w.service(t)
	open := []gateway.Unended{
		{Execution: "ex_1", DecidedSeq: 7, Principal: caller(), RequestID: "rq_1"},
		{Execution: "ex_2", DecidedSeq: 9, Principal: caller()},
	}
	if err := s.CloseUnended(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	for i, r := range w.recorded() {
		if r.Execution != open[i].Execution || r.Ended.DecidedSeq != open[i].DecidedSeq ||
			r.Ended.Outcome != execution.OutcomeUnknownCrash || r.Principal.Subject != "ak_caller" {
			t.Errorf("record %+v", r)
		}
	}
	w.append = func(_ context.Context, r execution.Record) error {
		if r.Execution == "ex_1" {
			return errors.New("full")
		}
		return nil
	}
	if err := s.CloseUnended(t.Context(), open); err == nil || !strings.Contains(err.Error(), "ex_1") || len(w.recorded()) != 3 {
		t.Errorf("error %v, %d records; want the second closed in spite of the first", err, len(w.recorded()))
	}
}

func BenchmarkService(b *testing.B) {
	w := newWorld()
	s := w.service(b)
	for b.Loop() {
		if _, err := s.Execute(b.Context(), call()); err != nil {
			b.Fatal(err)
		}
		w.events, w.records = w.events[:0], w.records[:0]
	}
}
