package gateway_test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// gated is an executor whose program tells its events as they are sent to it,
// and ends when the channel is closed.
func gated(events <-chan execution.Event) func(context.Context, execution.Job) (execution.Result, error) {
	return func(ctx context.Context, job execution.Job) (execution.Result, error) {
		result := exited(0)
		result.Stdout = nil
		for {
			select {
			case e, ok := <-events:
				if !ok {
					return result, nil
				}
				result.Stdout = append(result.Stdout, e.Data...)
				if job.Events != nil {
					job.Events(e)
				}
			case <-ctx.Done():
				return execution.Result{Outcome: execution.OutcomeCancelled}, nil
			}
		}
	}
}

// follow returns a stream that has begun.
func (s *site) follow(ctx context.Context, path, after string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.address+path+"/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+callerToken)
	r.Header.Set("Last-Event-ID", after)
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestAsynchronousExecution(t *testing.T) {
	w := newWorld()
	events := make(chan execution.Event)
	w.execute = gated(events)
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async")
	path := a.Header.Get("Location")
	id := strings.TrimPrefix(path, "/v1/executions/")
	if a.StatusCode != 202 || a.Header.Get("Preference-Applied") != "respond-async" || a.body != `{"id":"`+id+`","state":"running"}` {
		t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
	}
	if a := s.do("GET", path, callerToken, ""); a.StatusCode != 200 || a.body != `{"id":"`+id+`","state":"running"}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	events <- begun
	events <- out("one ")
	all, rest := s.follow(t.Context(), path, ""), s.follow(t.Context(), path, "1")
	events <- out("two")
	close(events)
	for response, want := range map[*http.Response]string{all: "1 started, 2 stdout, 3 stdout, 4 ended", rest: "2 stdout, 3 stdout, 4 ended"} {
		text, err := io.ReadAll(response.Body)
		if got := kinds(readEvents(t, string(text))); err != nil || got != want {
			t.Errorf("followed %s, %v; want %s", got, err, want)
		}
	}
	waitFor(t, "the end", func() bool { return strings.Contains(s.do("GET", path, callerToken, "").body, `"state":"ended"`) })
	a = s.do("GET", path, callerToken, "")
	body := strings.Replace(a.body, `"state":"ended",`, "", 1)
	if !strings.HasPrefix(body, `{"id":"`+id+`","outcome":"exited","exit_code":0,"stdout":"one two"`) {
		t.Errorf("%s", a.body)
	}

	// After its end, from what is remembered.
	waitFor(t, "the result to be kept", func() bool { row, err := w.memory.Load(t.Context(), id); return err == nil && row.State == "ended" })
	s.service.Drain(t.Context())
	for after, want := range map[string]string{"": "started, stdout, 4 ended", "0": "started, stdout, 4 ended", "2": "4 ended"} {
		a := s.do("GET", path+"/events", callerToken, "", "Last-Event-ID", after)
		events := readEvents(t, a.body)
		if kinds(events) != want || events[len(events)-1].data != body {
			t.Errorf("after %q: %s", after, a.body)
		}
	}
	for _, after := range []string{"4", "5"} {
		if a := s.do("GET", path+"/events", callerToken, "", "Last-Event-ID", after); a.StatusCode != 204 {
			t.Errorf("after %s: %d %s", after, a.StatusCode, a.body)
		}
	}
	for _, after := range []string{"x", "-1", "01", "99999999999999999999"} {
		if a := s.do("GET", path+"/events", callerToken, "", "Last-Event-ID", after); a.problem(t).Code != "last_event_id_invalid" {
			t.Errorf("after %s: %d %s", after, a.StatusCode, a.body)
		}
	}
	for _, hidden := range []string{path, path + "/events", "/v1/executions/ex_x", "/v1/executions/" + execution.NewID(execution.PrefixExecution, time.Now())} {
		for _, token := range []string{"caller/other", "admin/other", "admin/default"} {
			if a := s.do("GET", hidden, token, ""); a.StatusCode != 404 || a.problem(t).Code != "execution_not_found" {
				t.Errorf("GET %s as %s: %d %s", hidden, token, a.StatusCode, a.body)
			}
		}
	}
	if a := s.do("GET", path, "admin/acme", ""); a.StatusCode != 200 {
		t.Errorf("an admin of the tenant: %d", a.StatusCode)
	}
}

func TestAsynchronousDenial(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		return execution.Deny("r", execution.Reason{Code: "no", Message: "not you"})
	}
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async")
	p := a.problem(t)
	if a.StatusCode != 403 || p.Execution == "" || p.Reasons[0].Code != "no" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	path := "/v1/executions/" + p.Execution
	if a := s.do("GET", path, callerToken, ""); a.StatusCode != 200 || !strings.Contains(a.body, `"state":"denied","problem":{`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("DELETE", path, callerToken, ""); a.StatusCode != 409 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("GET", path+"/events", callerToken, ""); kinds(readEvents(t, a.body)) != "1 error" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestAsynchronousFailure(t *testing.T) {
	w := newWorld()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) { panic("boom") }
	s := serve(t, w, nil)
	path := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async").Header.Get("Location")
	if a := s.do("GET", path+"/events", callerToken, ""); !strings.HasSuffix(kinds(readEvents(t, a.body)), "1 error") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	a := s.do("GET", path, callerToken, "")
	if !strings.Contains(a.body, `"state":"ended","outcome":"engine_failed","problem":{"type":"https://execgate.dev/problems/internal"`) || strings.Contains(a.body, "boom") {
		t.Errorf("%s", a.body)
	}
}

func TestDelete(t *testing.T) {
	w := newWorld()
	w.execute = gated(nil)
	s := serve(t, w, nil)
	path := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async").Header.Get("Location")
	if a := s.do("DELETE", path, "caller/other", ""); a.StatusCode != 404 {
		t.Errorf("by another tenant: %d", a.StatusCode)
	}
	for range 2 {
		if a := s.do("DELETE", path, callerToken, ""); a.StatusCode != 204 || a.body != "" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("%+v", r)
	}
	if a := s.do("GET", path, callerToken, ""); !strings.Contains(a.body, `"outcome":"cancelled"`) {
		t.Errorf("%s", a.body)
	}
	w.execute = telling(begun)
	path = s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async").Header.Get("Location")
	s.do("GET", path+"/events", callerToken, "") // to its end
	if a := s.do("DELETE", path, callerToken, ""); a.StatusCode != 409 || a.problem(t).Code != "execution_ended" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// With a key the execution is the caller's to find again, in every form.
func TestIdempotencyKeyOverHTTP(t *testing.T) {
	w := newWorld()
	w.execute = telling(begun, out("x"))
	s := serve(t, w, nil)
	do := func(headers ...string) answer {
		return s.do("POST", "/v1/executions", callerToken, program, append(headers, "Idempotency-Key", "k")...)
	}
	first := do()
	if first.StatusCode != 200 || first.Header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("%d %s", first.StatusCode, first.body)
	}
	for _, again := range []answer{do(), do("Prefer", "respond-async")} {
		if again.StatusCode != 200 || again.body != first.body || again.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%d %v %s", again.StatusCode, again.Header, again.body)
		}
	}
	if got := kinds(readEvents(t, do("Accept", "text/event-stream").body)); !strings.HasSuffix(got, "ended") {
		t.Errorf("as a stream: %s", got)
	}
	other := s.do("POST", "/v1/executions", callerToken, strings.Replace(program, "1", "2", 1), "Idempotency-Key", "k")
	if other.StatusCode != 422 || other.problem(t).Code != "idempotency_key_reused" {
		t.Errorf("%d %s", other.StatusCode, other.body)
	}
	// The same request written differently is the same request.
	same := s.do("POST", "/v1/executions", callerToken, `{ "code" : "print(1)" , "language":"python"}`, "Idempotency-Key", "k")
	if same.StatusCode != 200 || same.body != first.body {
		t.Errorf("%d %s", same.StatusCode, same.body)
	}
	if n := strings.Count(w.history(), "execute"); n != 1 {
		t.Errorf("%d executions", n)
	}
}

// With a key hanging up does not cancel, whether the caller waits or follows a
// stream; who comes again before the end is told the state.
func TestHangUpWithAKey(t *testing.T) {
	for name, headers := range map[string]string{"waiting": "", "streaming": asStream} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			events := make(chan execution.Event)
			w.execute = gated(events)
			s := serve(t, w, nil)
			conn := s.dial()
			io.WriteString(conn, withLength(headers+"Idempotency-Key: k\r\n", program))
			events <- begun
			conn.Close()
			a := s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k")
			if a.StatusCode != 202 || !strings.Contains(a.body, `"state":"running"`) || a.Header.Get("Location") == "" {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			waitFor(t, "the first request to end", func() bool { return strings.Count(s.log.String(), `"msg":"request"`) == 2 })
			events <- out("still here")
			close(events)
			waitFor(t, "the end", func() bool { return len(w.recorded()) == 2 })
			if r := w.recorded(); r[1].Ended.Outcome != execution.OutcomeExited {
				t.Errorf("%+v", r[1].Ended)
			}
			waitFor(t, "the result", func() bool { return s.do("GET", a.Header.Get("Location"), callerToken, "").StatusCode == 200 })
			s.do("GET", a.Header.Get("Location")+"/events", callerToken, "")
			if a := s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k"); a.StatusCode != 200 || !strings.Contains(a.body, "still here") {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
}

// A follower that does not read holds neither the program nor the others.
func TestFollowerThatDoesNotRead(t *testing.T) {
	w := newWorld()
	events := make(chan execution.Event)
	w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
		for e := range events {
			job.Events(e)
		}
		return exited(0), nil // small: only the follower is to be slow
	}
	s := serve(t, w, nil)
	// Another way to the same executions, which gives readers little time: those who do
	// read come by the first, and have theirs however busy the machine is.
	hasty := serve(t, w, func(c *gateway.Config) { c.Service, c.WriteTimeout = s.service, 500*time.Millisecond })
	path := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async").Header.Get("Location")
	conn := hasty.dial()
	io.WriteString(conn, "GET "+path+"/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "+callerToken+"\r\n\r\n")
	events <- begun
	piece := strings.Repeat("x", 256<<10)
	end := sync.OnceFunc(func() { close(events) })
	defer end()
	// The program goes on, however full the buffers of the sockets are.
	waitFor(t, "the follower to be given up", func() bool {
		events <- out(piece)
		return strings.Contains(hasty.log.String(), "i/o timeout")
	})
	end()
	// Who begins late is told what is missing, and gets the end.
	a := s.do("GET", path+"/events", callerToken, "")
	if !strings.Contains(a.body, ": events 1 to ") && !strings.Contains(a.body, "event: started") || !strings.Contains(a.body, "event: ended") {
		t.Errorf("%.300s", a.body)
	}
}

func TestReadersAreBounded(t *testing.T) {
	w := newWorld()
	events := make(chan execution.Event)
	w.execute = gated(events)
	s := serve(t, w, nil)
	path := s.do("POST", "/v1/executions", callerToken, program, "Prefer", "respond-async").Header.Get("Location")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for i := range 65 {
		response := s.follow(ctx, path, "")
		if want := map[bool]int{true: 200, false: 429}[i < 64]; response.StatusCode != want {
			t.Errorf("reader %d: %d", i, response.StatusCode)
		}
	}
	other := s.do("GET", "/v1/executions/"+execution.NewID(execution.PrefixExecution, time.Now()), "caller/other", "")
	if other.StatusCode != 404 {
		t.Errorf("another tenant: %d", other.StatusCode)
	}
	leave()
	close(events)
	waitFor(t, "room", func() bool { return s.do("GET", path, callerToken, "").StatusCode == 200 })
}

// A result that was given up to make room is gone, and its key does not run it
// again.
func TestResultThatWasGivenUp(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k")
	id := w.recorded()[0].Execution
	s.service.Drain(t.Context())
	w.memory.mu.Lock()
	row := w.memory.rows[id]
	row.State, row.Body = "expired", nil
	w.memory.rows[id] = row
	w.memory.mu.Unlock()
	path := "/v1/executions/" + id
	if a := s.do("GET", path, callerToken, ""); a.StatusCode != 200 || a.body != `{"id":"`+id+`","state":"expired"}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for _, a := range []answer{
		s.do("GET", path+"/events", callerToken, ""),
		s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k"),
		s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k", "Accept", "text/event-stream"),
	} {
		if a.StatusCode != 410 || a.problem(t).Code != "result_expired" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	if a := s.do("DELETE", path, callerToken, ""); a.StatusCode != 409 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// The whole way with the store on disk, over a restart.
func TestResultsOutliveTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	var location, body string
	for life := range 2 {
		w := newWorld()
		config := w.config()
		config.Executions = onDisk(t, path)
		service, err := gateway.NewService(config)
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, w, func(c *gateway.Config) { c.Service = service })
		a := s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k")
		if life == 0 {
			location, body = "/v1/executions/"+w.recorded()[0].Execution, a.body
		} else if a.body != body || len(w.recorded()) != 0 {
			t.Errorf("%d %s, want %s", a.StatusCode, a.body, body)
		}
		if a := s.do("GET", location, callerToken, ""); a.StatusCode != 200 || !strings.Contains(a.body, `"state":"ended"`) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestServeSweeps(t *testing.T) {
	w := newWorld()
	w.memory.failing(func(doing string) error { w.saw(doing); panic("disk") })
	s := serve(t, w, nil)
	waitFor(t, "a sweep", func() bool { return strings.Contains(w.history(), "sweep") })
	w.memory.failing(nil) // whose panic is not the gateway's end
	if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
