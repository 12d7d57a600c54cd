package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// sessionful is a world whose policy grants sessions: idle for a minute, open for
// ten, two of a tenant.
func sessionful() *world {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Grant.Session = execution.SessionGrant{IdleS: 60, AbsoluteS: 600, Max: 2}
		return d
	}
	return w
}

func opening() gateway.Call {
	c := call()
	c.Request = execution.Request{Language: "python"}
	return c
}

func in(id string) gateway.Call {
	c := call()
	c.Request = execution.Request{Code: "1", Session: id}
	return c
}

func mustOpen(t testing.TB, s *gateway.Service) string {
	t.Helper()
	opened, err := s.OpenSession(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	return opened.ID
}

func mustClose(t testing.TB, s *gateway.Service, id string) {
	t.Helper()
	if ended, err := s.CloseSession(t.Context(), opening(), id); !ended || err != nil {
		t.Fatalf("ended %v, %v", ended, err)
	}
}

// ends are the reasons with which sessions have ended, as the log has them.
func (w *world) ends() (reasons []execution.SessionEnd) {
	for _, r := range w.recorded() {
		if r.Type == execution.RecordSession && r.Session.What == execution.SessionClosed {
			reasons = append(reasons, r.Session.Reason)
		}
	}
	return reasons
}

func wantError(t testing.TB, err error, kind execution.Kind, code string) {
	t.Helper()
	if e := problemOf(err); e.Kind != kind || e.Code != code {
		t.Errorf("error %v, want %s %s", err, kind, code)
	}
}

func TestSessionFromOpeningToEnd(t *testing.T) {
	w := sessionful()
	var asked execution.Question
	granted := w.decide
	w.decide = func(q execution.Question) execution.Decision {
		asked = q
		return granted(q)
	}
	var sandbox execution.Session
	w.openSession = func(_ context.Context, s execution.Session) error { sandbox = s; return nil }
	var job execution.Job
	w.execute = func(_ context.Context, j execution.Job) (execution.Result, error) {
		job = j
		result := exited(0)
		result.Session = execution.SessionReset
		return result, nil
	}
	s := w.service(t)
	opened, err := s.OpenSession(t.Context(), opening())
	if err != nil {
		t.Fatal(err)
	}
	if w.history() != "resolve decide decided open_session session" || len(opened.Records) != 2 {
		t.Errorf("history %q, records %v", w.history(), opened.Records)
	}
	if asked.Action != execution.ActionSession || asked.ID != opened.ID || asked.Request.Session != "" {
		t.Errorf("asked %+v", asked)
	}
	if sandbox.ID != opened.ID || sandbox.Owner != caller().Owner() || sandbox.Language != "python" || sandbox.Grant.Limits != limits() {
		t.Errorf("sandbox %+v", sandbox)
	}
	decided := w.recorded()[0]
	if decided.Execution != "" || decided.Decided.Action != execution.ActionSession || decided.Decided.Session != opened.ID {
		t.Errorf("record %+v %+v", decided, decided.Decided)
	}

	got, err := s.Execute(t.Context(), in(opened.ID))
	if err != nil {
		t.Fatal(err)
	}
	if got.Session != opened.ID || got.Result.Session != execution.SessionReset {
		t.Errorf("left as %q %q", got.Session, got.Result.Session)
	}
	// What comes from the session is asked of policy and in the job.
	if r := asked.Request; r.Session != opened.ID || r.Language != "python" || r.Image != "python" || r.Runtime != "runc" ||
		r.Limits.MemoryMiB != limits().MemoryMiB || r.Limits.TimeoutMS != 0 {
		t.Errorf("asked %+v", r)
	}
	if job.Session != opened.ID || job.Language != "python" || job.Grant.Image != digest {
		t.Errorf("job %+v", job)
	}
	if st, err := s.LookSession(t.Context(), caller(), opened.ID); err != nil || st.Executions != 1 || st.Busy || st.State != "open" || st.Idle.IsZero() {
		t.Errorf("stands %+v, %v", st, err)
	}

	mustClose(t, s, opened.ID)
	mustClose(t, s, opened.ID) // again
	if want := []execution.SessionEnd{execution.SessionDeleted}; !slices.Equal(w.ends(), want) {
		t.Errorf("ends %v", w.ends())
	}
	last := w.recorded()[len(w.recorded())-1]
	if last.Principal.Subject != "ak_caller" || last.RequestID != "rq_1" || last.Session.ID != opened.ID {
		t.Errorf("record %+v", last)
	}
	_, err = s.Execute(t.Context(), in(opened.ID))
	wantError(t, err, execution.KindGone, "session_ended")
	if len(s.ListSessions(caller())) != 0 {
		t.Error("it is still listed")
	}
}

// What fails on the way leaves nothing, and nothing is opened before the decision
// is durable.
func TestOpeningThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*world)
		kind    execution.Kind
		code    string
		history string
	}{
		"denied": {func(w *world) {
			w.decide = func(execution.Question) execution.Decision {
				return execution.Deny("sha256:rev", execution.Reason{Code: "session_not_granted"})
			}
		}, execution.KindDenied, "", "resolve decide decided"},
		"no session in the grant": {func(w *world) {
			w.decide = func(execution.Question) execution.Decision { return allow() }
		}, execution.KindDenied, "", "resolve decide decided"},
		"decision not recorded": {func(w *world) {
			w.append = func(context.Context, execution.Record) error { return errors.New("full") }
		}, execution.KindUnavailable, "audit_unavailable", "resolve decide decided"},
		"too small": {func(w *world) {
			w.openSession = func(context.Context, execution.Session) error {
				return &execution.Error{Kind: execution.KindInvalid, Code: "memory_too_small"}
			}
		}, execution.KindInvalid, "memory_too_small", "resolve decide decided open_session close_session"},
		"engine": {func(w *world) {
			w.openSession = func(context.Context, execution.Session) error {
				return &execution.Error{Kind: execution.KindUnavailable, Code: "engine_unavailable"}
			}
		}, execution.KindUnavailable, "engine_unavailable", "resolve decide decided open_session close_session"},
		"panic": {func(w *world) {
			w.openSession = func(context.Context, execution.Session) error { panic("docker") }
		}, execution.KindInternal, "panic", "resolve decide decided open_session close_session"},
		"not remembered": {func(w *world) {
			w.sessions.fail = errors.New("disk")
		}, execution.KindUnavailable, "sessions_unavailable", "resolve decide decided open_session close_session"},
		"opening not recorded": {func(w *world) {
			w.append = func(_ context.Context, r execution.Record) error {
				if r.Type == execution.RecordSession {
					return errors.New("full")
				}
				return nil
			}
		}, execution.KindUnavailable, "audit_unavailable", "resolve decide decided open_session session close_session"},
	} {
		t.Run(name, func(t *testing.T) {
			w := sessionful()
			test.change(w)
			s := w.service(t)
			opened, err := s.OpenSession(t.Context(), opening())
			wantError(t, err, test.kind, test.code)
			if w.history() != test.history {
				t.Errorf("history %q, want %q", w.history(), test.history)
			}
			if _, err := s.LookSession(t.Context(), caller(), opened.ID); execution.KindOf(err) != execution.KindNotFound {
				t.Errorf("it can be looked at: %v", err)
			}
			if left, _ := w.sessions.Left(t.Context()); len(left) != 0 {
				t.Errorf("it is remembered: %v", left)
			}
			// Its place is free, and the service can stop.
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSessionsAreBounded(t *testing.T) {
	w := sessionful()
	config := w.config()
	config.MaxSessions = 3
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	first := mustOpen(t, s)
	mustOpen(t, s)
	// Of the tenant: known only once it is decided.
	before := len(w.recorded())
	_, err = s.OpenSession(t.Context(), opening())
	wantError(t, err, execution.KindSaturated, "sessions_saturated")
	if r := w.recorded(); len(r) != before+1 || r[before].Type != execution.RecordDecided {
		t.Errorf("records %+v", r[before:])
	}
	other := opening()
	other.Principal.Tenant = "other"
	if _, err := s.OpenSession(t.Context(), other); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	// Of the gateway: before anything is decided.
	before = len(w.recorded())
	other.Principal.Tenant = "third"
	_, err = s.OpenSession(t.Context(), other)
	wantError(t, err, execution.KindSaturated, "sessions_saturated")
	if len(w.recorded()) != before {
		t.Error("it was decided")
	}
	mustClose(t, s, first)
	mustOpen(t, s)
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// A session is its owner's. Another principal of the tenant finds none, an admin of
// the tenant may look at it and delete it, and nobody else may use it.
func TestSessionsOfOthers(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	for name, test := range map[string]struct {
		who  execution.Principal
		sees bool
	}{
		"colleague":   {execution.Principal{Subject: "ak_other", Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}}, false},
		"namesake":    {execution.Principal{Subject: "ak_caller", Tenant: "other", Roles: []execution.Role{execution.RoleCaller}}, false},
		"admin":       {execution.Principal{Subject: "ak_admin", Tenant: "acme", Roles: []execution.Role{execution.RoleAdmin}}, true},
		"other admin": {execution.Principal{Subject: "ak_admin", Tenant: "default", Roles: []execution.Role{execution.RoleAdmin}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := in(id)
			c.Principal = test.who
			_, err := s.Execute(t.Context(), c)
			wantError(t, err, execution.KindNotFound, "session_not_found")
			wantError(t, s.PutFile(t.Context(), c, id, "a", nil), execution.KindNotFound, "session_not_found")
			_, err = s.GetFile(t.Context(), c, id, "a")
			wantError(t, err, execution.KindNotFound, "session_not_found")
			_, err = s.LookSession(t.Context(), test.who, id)
			if (err == nil) != test.sees {
				t.Errorf("looks: %v", err)
			}
			if n := len(s.ListSessions(test.who)); (n == 1) != test.sees {
				t.Errorf("lists %d", n)
			}
			if !test.sees {
				_, err = s.CloseSession(t.Context(), c, id)
				wantError(t, err, execution.KindNotFound, "session_not_found")
			}
		})
	}
	admin := opening()
	admin.Principal = execution.Principal{Subject: "ak_admin", Tenant: "acme", Roles: []execution.Role{execution.RoleAdmin}}
	if ended, err := s.CloseSession(t.Context(), admin, id); !ended || err != nil {
		t.Errorf("admin's delete: %v, %v", ended, err)
	}
	if r := w.recorded(); r[len(r)-1].Principal.Subject != "ak_admin" {
		t.Errorf("the record names %+v", r[len(r)-1].Principal)
	}
	for _, unknown := range []string{"", "se_1", execution.NewID(execution.PrefixSession, time.Now()), execution.NewID(execution.PrefixExecution, time.Now())} {
		_, err := s.LookSession(t.Context(), caller(), unknown)
		wantError(t, err, execution.KindNotFound, "session_not_found")
	}
}

func TestWhatDoesNotFitTheSession(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	w.image = func(language, image string) (execution.Image, error) {
		return execution.Image{Name: "node", Digest: digest}, nil
	}
	c := opening()
	c.Request = execution.Request{Image: "node"}
	commands, err := s.OpenSession(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		id      string
		request execution.Request
		pointer string
	}{
		"language":              {id, execution.Request{Code: "1", Language: "bash"}, "/language"},
		"image":                 {id, execution.Request{Code: "1", Image: "node"}, "/image"},
		"runtime":               {id, execution.Request{Code: "1", Runtime: "runsc"}, "/runtime"},
		"command":               {id, execution.Request{Command: []string{"ls"}}, "/command"},
		"memory":                {id, execution.Request{Code: "1", Limits: execution.Limits{MemoryMiB: 64}}, "/limits/memory_mib"},
		"shm":                   {id, execution.Request{Code: "1", Limits: execution.Limits{ShmMiB: 1, TimeoutMS: 5}}, "/limits/shm_mib"},
		"code without language": {commands.ID, execution.Request{Code: "1"}, "/command"},
		"language of none":      {commands.ID, execution.Request{Command: []string{"ls"}, Language: "python"}, "/language"},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.history()
			c := in(test.id)
			test.request.Session = test.id
			c.Request = test.request
			_, err := s.Execute(t.Context(), c)
			if e := problemOf(err); e.Kind != execution.KindInvalid || len(e.Fields) != 1 || e.Fields[0].Pointer != test.pointer {
				t.Errorf("error %v, want invalid at %s", err, test.pointer)
			}
			if w.history() != before {
				t.Errorf("something was done: %s", strings.TrimPrefix(w.history(), before))
			}
		})
	}
	w.image = newWorld().image
	c = in(id)
	c.Request.Language, c.Request.Image, c.Request.Runtime, c.Request.Limits.TimeoutMS = "python", "python", "runc", 500
	if _, err := s.Execute(t.Context(), c); err != nil {
		t.Errorf("what is the session's own: %v", err)
	}
	c.Request = execution.Request{Command: []string{"ls"}, Session: commands.ID}
	w.image = func(string, string) (execution.Image, error) {
		return execution.Image{Name: "node", Digest: digest}, nil
	}
	if _, err := s.Execute(t.Context(), c); err != nil {
		t.Errorf("a command: %v", err)
	}
}

// An execution never runs in a sandbox that has more than policy grants now.
func TestSessionThatExceedsTheGrant(t *testing.T) {
	other := "sha256:" + strings.Repeat("2", 64)
	for name, change := range map[string]func(w *world, d *execution.Decision){
		"memory_mib":        func(_ *world, d *execution.Decision) { d.Grant.Limits.MemoryMiB = 32 },
		"workspace_mib":     func(_ *world, d *execution.Decision) { d.Grant.Limits.PIDs, d.Grant.Limits.WorkspaceMiB = 8, 1 },
		"runtime":           func(_ *world, d *execution.Decision) { d.Grant.Runtime = "runsc" },
		"image":             func(_ *world, d *execution.Decision) { d.Grant.Image = other },
		"absolute_s":        func(_ *world, d *execution.Decision) { d.Grant.Session.AbsoluteS = 599 },
		"idle_s":            func(_ *world, d *execution.Decision) { d.Grant.Session.IdleS = 59 },
		"optional_controls": func(_ *world, d *execution.Decision) { d.Grant.OptionalControls = []string{"apparmor"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := sessionful()
			first := w.decide
			w.decide = func(q execution.Question) execution.Decision {
				d := first(q)
				d.Grant.OptionalControls = []string{"swap"}
				d.Grant.Limits.WorkspaceMiB = 2
				return d
			}
			s := w.service(t)
			id := mustOpen(t, s)
			same := w.decide
			w.decide = func(q execution.Question) execution.Decision {
				d := same(q)
				change(w, &d)
				return d
			}
			if name == "image" {
				w.image = func(string, string) (execution.Image, error) {
					return execution.Image{Name: "python", Digest: other}, nil
				}
			}
			got, err := s.Execute(t.Context(), in(id))
			e := problemOf(err)
			if e.Kind != execution.KindDenied || len(e.Reasons) != 1 || e.Reasons[0].Code != "session_exceeds_grant" ||
				!strings.Contains(e.Reasons[0].Message, name) || !strings.Contains(e.Reasons[0].Remediation, "new session") {
				t.Errorf("error %v %+v", err, e.Reasons)
			}
			if len(got.Records) != 1 || strings.Contains(w.history(), "execute") {
				t.Errorf("history %q", w.history())
			}
			w.decide = same
			w.image = newWorld().image
			if _, err := s.Execute(t.Context(), in(id)); err != nil {
				t.Errorf("with the old grant again: %v", err)
			}
		})
	}
}

// held is an executor whose programs run until they are let go, or cancelled.
func held(started chan<- string, release <-chan struct{}) func(context.Context, execution.Job) (execution.Result, error) {
	return func(ctx context.Context, job execution.Job) (execution.Result, error) {
		started <- job.ID
		result := exited(0)
		result.Session = execution.SessionKept
		select {
		case <-release:
		case <-ctx.Done():
			result = execution.Result{Outcome: execution.OutcomeCancelled, Session: execution.SessionKept}
		}
		return result, nil
	}
}

func TestOneExecutionAtATime(t *testing.T) {
	w := sessionful()
	started, release := make(chan string, 1), make(chan struct{})
	w.execute = held(started, release)
	s := w.service(t)
	id := mustOpen(t, s)
	first := make(chan error, 1)
	go func() {
		_, err := s.Execute(t.Context(), in(id))
		first <- err
	}()
	<-started
	_, err := s.Execute(t.Context(), in(id))
	wantError(t, err, execution.KindConflict, "session_busy")
	if st, _ := s.LookSession(t.Context(), caller(), id); !st.Busy || !st.Idle.IsZero() {
		t.Errorf("stands %+v", st)
	}
	wantError(t, s.PutFile(t.Context(), in(id), id, "a.txt", []byte("x")), execution.KindConflict, "session_busy")
	close(release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execute(t.Context(), in(id)); err != nil {
		t.Errorf("after it: %v", err)
	}
	<-started
}

// A denied execution, and one that fails, give their turn back.
func TestTurnIsGivenBack(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	granted, runs := w.decide, w.execute
	for name, change := range map[string]func(){
		"denied": func() { w.decide = func(execution.Question) execution.Decision { return execution.Decision{} } },
		"engine": func() {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, errors.New("docker")
			}
		},
		"panic":    func() { w.decide = func(execution.Question) execution.Decision { panic("rego") } },
		"log full": func() { w.append = func(context.Context, execution.Record) error { return errors.New("full") } },
	} {
		change()
		if _, err := s.Execute(t.Context(), in(id)); err == nil {
			t.Errorf("%s: no error", name)
		}
		w.decide, w.execute, w.append = granted, runs, newWorld().append
		if _, err := s.Execute(t.Context(), in(id)); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

func TestIdleSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		started, release := make(chan string, 1), make(chan struct{})
		w.execute = held(started, release)
		s := w.service(t)
		id := mustOpen(t, s)
		time.Sleep(59 * time.Second)
		// While something runs, and while a file is on its way, it is not idle.
		go s.Execute(context.Background(), in(id))
		<-started
		time.Sleep(2 * time.Minute)
		close(release)
		synctest.Wait()
		w.getFile = func(context.Context, string, int64) ([]byte, error) { time.Sleep(50 * time.Second); return nil, nil }
		time.Sleep(59 * time.Second)
		if _, err := s.GetFile(t.Context(), in(id), id, "a"); err != nil {
			t.Fatal(err)
		}
		// From its end on it is.
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if _, err := s.LookSession(t.Context(), caller(), id); err != nil {
			t.Fatalf("after 59 s: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		_, err := s.LookSession(t.Context(), caller(), id)
		wantError(t, err, execution.KindGone, "session_ended")
		if e := problemOf(err); len(e.Reasons) != 1 || e.Reasons[0].Code != "idle" {
			t.Errorf("reasons %+v", e.Reasons)
		}
		if want := []execution.SessionEnd{execution.SessionIdle}; !slices.Equal(w.ends(), want) || !strings.HasSuffix(w.history(), "close_session session") {
			t.Errorf("ends %v, history %q", w.ends(), w.history())
		}
	})
}

// The absolute time holds also for what runs then, which is cancelled and recorded
// before the end of the session is.
func TestSessionExpiresUnderAnExecution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		started := make(chan string, 1)
		w.execute = held(started, nil)
		s := w.service(t)
		id := mustOpen(t, s)
		began := time.Now()
		got, err := s.Execute(t.Context(), in(id))
		if err != nil || got.Result.Outcome != execution.OutcomeCancelled || got.Result.Session != execution.SessionEnded {
			t.Errorf("%+v, %v", got.Result, err)
		}
		if took := time.Since(began); took != 10*time.Minute {
			t.Errorf("ended after %v", took)
		}
		synctest.Wait()
		r := w.recorded()
		if len(r) < 2 || r[len(r)-2].Type != execution.RecordEnded || !slices.Equal(w.ends(), []execution.SessionEnd{execution.SessionExpired}) {
			t.Errorf("history %q", w.history())
		}
		_, err = s.Execute(t.Context(), in(id))
		wantError(t, err, execution.KindGone, "session_ended")
	})
}

// A session is remembered past its end for as long as results are.
func TestEndOfASessionIsRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessionful().service(t)
		id := mustOpen(t, s)
		mustClose(t, s, id)
		time.Sleep(24*time.Hour - time.Second)
		_, err := s.LookSession(t.Context(), caller(), id)
		wantError(t, err, execution.KindGone, "session_ended")
		time.Sleep(time.Second)
		_, err = s.LookSession(t.Context(), caller(), id)
		wantError(t, err, execution.KindNotFound, "session_not_found")
	})
}

// Deleting a session cancels what runs in it, and its record comes first.
func TestDeletingABusySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		started := make(chan string, 1)
		w.execute = held(started, nil)
		s := w.service(t)
		id := mustOpen(t, s)
		result := make(chan gateway.Response, 1)
		go func() {
			got, _ := s.Execute(t.Context(), in(id))
			result <- got
		}()
		<-started
		mustClose(t, s, id)
		if got := <-result; got.Result.Outcome != execution.OutcomeCancelled || got.Result.Session != execution.SessionEnded {
			t.Errorf("%+v", got.Result)
		}
		if !strings.HasSuffix(w.history(), "execute ended close_session session") {
			t.Errorf("history %q", w.history())
		}
	})
}

// A program that does not end when it is cancelled does not keep its session.
func TestDeletingASessionThatDoesNotLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		started, release := make(chan string, 1), make(chan struct{})
		w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
			started <- job.ID
			<-release
			return exited(0), nil
		}
		s := w.service(t)
		id := mustOpen(t, s)
		go s.Execute(context.Background(), in(id))
		<-started
		if _, err := s.CloseSession(t.Context(), opening(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !strings.HasSuffix(w.history(), "execute close_session session") {
			t.Errorf("history %q", w.history())
		}
		close(release)
		synctest.Wait()
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What the sandbox does not survive, the session does not.
func TestSessionEndsWithItsSandbox(t *testing.T) {
	gone := &execution.Error{Kind: execution.KindGone, Code: "session_ended"}
	for name, use := range map[string]func(*world, *gateway.Service, string) error{
		"killed": func(w *world, s *gateway.Service, id string) error {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{Outcome: execution.OutcomeOutOfMemory, Session: execution.SessionEnded}, nil
			}
			got, err := s.Execute(context.Background(), in(id))
			if err != nil || got.Result.Outcome != execution.OutcomeOutOfMemory || got.Result.Session != execution.SessionEnded {
				return fmt.Errorf("%+v, %w", got.Result, err)
			}
			return gone
		},
		"lost": func(w *world, s *gateway.Service, id string) error {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { return execution.Result{}, gone }
			_, err := s.Execute(context.Background(), in(id))
			return err
		},
		"lost at a file": func(w *world, s *gateway.Service, id string) error {
			w.putFile = func(context.Context, string, []byte) error { return gone }
			return s.PutFile(context.Background(), in(id), id, "a", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sessionful()
				s := w.service(t)
				id := mustOpen(t, s)
				wantError(t, use(w, s, id), execution.KindGone, "session_ended")
				synctest.Wait()
				_, err := s.LookSession(t.Context(), caller(), id)
				wantError(t, err, execution.KindGone, "session_ended")
				if want := []execution.SessionEnd{execution.SessionLost}; !slices.Equal(w.ends(), want) {
					t.Errorf("ends %v", w.ends())
				}
			})
		})
	}
}

func TestDrainEndsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		started := make(chan string, 1)
		w.execute = held(started, nil)
		s := w.service(t)
		idle, busy := mustOpen(t, s), mustOpen(t, s)
		go s.Execute(context.Background(), in(busy))
		<-started
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(ctx) }()
		time.Sleep(time.Second)
		// The idle one at once; the busy one's execution has its time.
		if want := []execution.SessionEnd{execution.SessionStopped}; !slices.Equal(w.ends(), want) {
			t.Errorf("ends %v", w.ends())
		}
		if st, err := s.LookSession(t.Context(), caller(), busy); err != nil || st.State != "ending" || !st.Busy {
			t.Errorf("the busy one: %+v, %v", st, err)
		}
		_, err := s.LookSession(t.Context(), caller(), idle)
		wantError(t, err, execution.KindGone, "session_ended")
		_, err = s.OpenSession(t.Context(), opening())
		wantError(t, err, execution.KindUnavailable, "draining")
		wantError(t, s.PutFile(t.Context(), in(busy), busy, "a", nil), execution.KindUnavailable, "draining")
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if n := len(w.ends()); n != 2 {
			t.Errorf("ends %v", w.ends())
		}
		if left, _ := w.sessions.Left(t.Context()); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
}

// One that is being opened when the gateway stops is not left.
func TestOpeningWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		release := make(chan struct{})
		w.openSession = func(context.Context, execution.Session) error { <-release; return nil }
		s := w.service(t)
		opened := make(chan error, 1)
		go func() {
			_, err := s.OpenSession(context.Background(), opening())
			opened <- err
		}()
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(context.Background()) }()
		synctest.Wait()
		close(release)
		wantError(t, <-opened, execution.KindUnavailable, "draining")
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(w.history(), "open_session close_session") {
			t.Errorf("history %q", w.history())
		}
	})
}

// A caller that hangs up while its session is opened leaves none behind.
func TestHangingUpWhileOpening(t *testing.T) {
	w := sessionful()
	ctx, cancel := context.WithCancel(t.Context())
	w.openSession = func(context.Context, execution.Session) error { cancel(); return nil }
	s := w.service(t)
	_, err := s.OpenSession(ctx, opening())
	wantError(t, err, execution.KindUnavailable, "cancelled")
	if !strings.HasSuffix(w.history(), "open_session close_session") || len(s.ListSessions(caller())) != 0 {
		t.Errorf("history %q", w.history())
	}
}

// After a crash what was open has ended, with a record.
func TestSessionsThatACrashLeft(t *testing.T) {
	w := sessionful()
	id := execution.NewID(execution.PrefixSession, time.Now())
	w.sessions.Add(t.Context(), gateway.StoredSession{ID: id, Owner: caller(), Created: time.Now(), Expires: time.Now().Add(time.Hour)})
	s := w.service(t)
	if err := s.CloseUnended(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r := w.recorded()
	if len(r) != 1 || r[0].Type != execution.RecordSession || r[0].Session.Reason != execution.SessionCrashed || r[0].Principal.Subject != "ak_caller" {
		t.Errorf("records %+v", r)
	}
	_, err := s.Execute(t.Context(), in(id))
	wantError(t, err, execution.KindGone, "session_ended")
	if e := problemOf(err); !strings.Contains(e.Detail, "restarted") {
		t.Errorf("detail %q", e.Detail)
	}
	if err := s.CloseUnended(t.Context(), nil); err != nil || len(w.recorded()) != 1 {
		t.Errorf("again: %v, %d records", err, len(w.recorded()))
	}
}

// An end that cannot be recorded is one all the same, and the next start records
// it.
func TestEndOfASessionThatIsNotRecorded(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	w.append = func(context.Context, execution.Record) error { return errors.New("full") }
	_, err := s.CloseSession(t.Context(), opening(), id)
	wantError(t, err, execution.KindUnavailable, "audit_unavailable")
	_, err = s.LookSession(t.Context(), caller(), id)
	wantError(t, err, execution.KindGone, "session_ended")
	w.append = newWorld().append
	if err := w.service(t).CloseUnended(t.Context(), nil); err != nil || !slices.Equal(w.ends(), []execution.SessionEnd{execution.SessionCrashed}) {
		t.Errorf("%v, ends %v", err, w.ends())
	}
}

func TestFilesOfASession(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	var path string
	var most int64
	w.putFile = func(_ context.Context, p string, _ []byte) error { path = p; return nil }
	w.getFile = func(_ context.Context, _ string, m int64) ([]byte, error) { most = m; return []byte("abc"), nil }
	if err := s.PutFile(t.Context(), in(id), id, "a/b.txt", []byte("abc")); err != nil || path != "a/b.txt" {
		t.Errorf("%q, %v", path, err)
	}
	if got, err := s.GetFile(t.Context(), in(id), id, "b"); err != nil || string(got) != "abc" || most != 1<<20 {
		t.Errorf("%q up to %d, %v", got, most, err)
	}
	wantError(t, s.PutFile(t.Context(), in(id), id, "big", make([]byte, 1<<20+1)), execution.KindTooLarge, "file_too_large")
	if !strings.HasSuffix(w.history(), "session put_file get_file session") {
		t.Errorf("history %q", w.history())
	}
	r := w.recorded()
	if got := r[len(r)-1].Session; got.What != execution.SessionGot || got.ID != id || got.File.Path != "b" || got.File.Size != 3 || got.File.SHA256 != execution.HexSHA256([]byte("abc")) {
		t.Errorf("record %+v", got)
	}
	// What cannot be recorded is not done, or not answered.
	w.append = func(context.Context, execution.Record) error { return errors.New("full") }
	before := strings.Count(w.history(), "put_file")
	wantError(t, s.PutFile(t.Context(), in(id), id, "a", nil), execution.KindUnavailable, "audit_unavailable")
	if strings.Count(w.history(), "put_file") != before {
		t.Error("it was done without its record")
	}
	got, err := s.GetFile(t.Context(), in(id), id, "a")
	wantError(t, err, execution.KindUnavailable, "audit_unavailable")
	if got != nil {
		t.Error("it was answered without its record")
	}
	w.append = newWorld().append
	for _, want := range []*execution.Error{
		{Kind: execution.KindNotFound, Code: "file_not_found"}, {Kind: execution.KindInvalid, Code: "file_refused"},
		{Kind: execution.KindTooLarge, Code: "file_too_large"}, {Kind: execution.KindConflict, Code: "session_busy"},
	} {
		w.getFile = func(context.Context, string, int64) ([]byte, error) { return nil, fmt.Errorf("agent: %w", want) }
		_, err := s.GetFile(t.Context(), in(id), id, "a")
		wantError(t, err, want.Kind, want.Code)
	}
	w.getFile = func(context.Context, string, int64) ([]byte, error) { panic("wire") }
	_, err = s.GetFile(t.Context(), in(id), id, "a")
	wantError(t, err, execution.KindInternal, "panic")
}

// Accesses to files wait for one another, and an execution does not run among them.
func TestFilesOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sessionful()
		under := 0
		w.putFile = func(context.Context, string, []byte) error {
			if under++; under > 1 {
				t.Error("two at once")
			}
			time.Sleep(time.Second)
			under--
			return nil
		}
		s := w.service(t)
		id := mustOpen(t, s)
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				if err := s.PutFile(context.Background(), in(id), id, "a", nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := s.Execute(t.Context(), in(id))
		wantError(t, err, execution.KindConflict, "session_busy")
		group.Wait()
		if _, err := s.Execute(t.Context(), in(id)); err != nil {
			t.Error(err)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Opening, running, deleting, expiring and stopping at once: nothing is lost, and
// every session that was opened has one end.
func TestSessionsUnderLoad(t *testing.T) {
	w := sessionful()
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Grant.Session = execution.SessionGrant{IdleS: 1, AbsoluteS: 1, Max: 100}
		return d
	}
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		select {
		case <-ctx.Done():
			return execution.Result{Outcome: execution.OutcomeCancelled, Session: execution.SessionKept}, nil
		case <-time.After(time.Millisecond):
			result := exited(0)
			result.Session = execution.SessionKept
			return result, nil
		}
	}
	config := w.config()
	config.MaxRunning, config.MaxSessions = 100, 100
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 20 {
				opened, err := s.OpenSession(context.Background(), opening())
				if err != nil {
					return // draining
				}
				var users sync.WaitGroup
				for range 3 {
					users.Go(func() { s.Execute(context.Background(), in(opened.ID)) })
				}
				users.Go(func() { s.PutFile(context.Background(), in(opened.ID), opened.ID, "a", nil) })
				users.Go(func() { s.CloseSession(context.Background(), opening(), opened.ID) })
				users.Wait()
			}
		})
	}
	waitFor(t, "sessions to be opened and ended", func() bool { return len(w.recorded()) > 100 })
	if err := s.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	group.Wait()
	open := map[string]int{}
	for _, r := range w.recorded() {
		if r.Type == execution.RecordSession {
			switch r.Session.What {
			case execution.SessionOpened:
				open[r.Session.ID]++
			case execution.SessionClosed:
				open[r.Session.ID] += 10
			}
		}
	}
	for id, n := range open {
		if n != 11 {
			t.Errorf("%s: opened %d times, ended %d", id, n%10, n/10)
		}
	}
	if len(open) == 0 || len(s.ListSessions(caller())) != 0 {
		t.Errorf("%d sessions, %d left", len(open), len(s.ListSessions(caller())))
	}
	if left, _ := w.sessions.Left(context.Background()); len(left) != 0 {
		t.Errorf("remembered as open: %v", left)
	}
}

func TestSubmittedInASession(t *testing.T) {
	w := sessionful()
	s := w.service(t)
	id := mustOpen(t, s)
	st, err := s.Submit(t.Context(), in(id), "key")
	if err == nil {
		st, err = st.Wait(t.Context())
	}
	if err != nil || !strings.Contains(string(st.Body), `"session":{"id":"`+id+`","state":"kept"}`) {
		t.Fatalf("%s, %v", st.Body, err)
	}
	mustClose(t, s, id)
	// The same key has its result also after the end of the session; another finds
	// the session gone, and stays free.
	if st, err := s.Submit(t.Context(), in(id), "key"); err != nil || !st.Again {
		t.Errorf("%+v, %v", st, err)
	}
	for range 2 {
		_, err = s.Submit(t.Context(), in(id), "other")
		wantError(t, err, execution.KindGone, "session_ended")
	}
}
