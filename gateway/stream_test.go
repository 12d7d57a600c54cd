package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// event is one server-sent event, as a client reads it.
type event struct{ id, kind, data string }

// readEvents reads a stream to its end.
func readEvents(t testing.TB, body string) []event {
	t.Helper()
	var events []event
	var e event
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if e.kind != "" {
				events = append(events, e)
			}
			e = event{}
		case strings.HasPrefix(line, ":"):
		case name == "id":
			e.id = value
		case name == "event":
			e.kind = value
		case name == "data":
			e.data = value
		default:
			t.Errorf("line %q", line)
		}
	}
	return events
}

func kinds(events []event) string {
	var all []string
	for _, e := range events {
		all = append(all, strings.TrimSpace(e.id+" "+e.kind))
	}
	return strings.Join(all, ", ")
}

// telling is an executor whose program does what the events say, and then ends.
func telling(events ...execution.Event) func(context.Context, execution.Job) (execution.Result, error) {
	return func(_ context.Context, job execution.Job) (execution.Result, error) {
		result := exited(0)
		result.Stdout = nil
		for _, e := range events {
			switch e.Type {
			case execution.EventStdout:
				result.Stdout = append(result.Stdout, e.Data...)
			case execution.EventArtifact:
				result.Artifacts = append(result.Artifacts, *e.Artifact)
			}
			if job.Events == nil {
				continue
			}
			if err := job.Events(e); err != nil {
				return execution.Result{Outcome: execution.OutcomeCancelled}, nil
			}
		}
		return result, nil
	}
}

func out(text string) execution.Event {
	return execution.Event{Type: execution.EventStdout, Data: []byte(text)}
}

var begun = execution.Event{Type: execution.EventStarted}

func TestStream(t *testing.T) {
	w := newWorld()
	w.execute = telling(begun, out("caf\xc3"), execution.Event{Type: execution.EventStderr, Data: []byte("a\nb\r\n")}, out("\xa9\xe2"),
		execution.Event{Type: execution.EventArtifact, Artifact: &execution.Artifact{Path: "a", MediaType: "text/plain", Size: 1, Content: []byte("x")}})
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "Accept", "text/event-stream")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	events := readEvents(t, a.body)
	if want := "1 started, 2 stdout, 3 stderr, 4 stdout, 5 artifact, 6 stdout, 7 ended"; kinds(events) != want {
		t.Fatalf("%s, want %s", kinds(events), want)
	}
	for i, want := range map[int]string{1: `{"text":"caf"}`, 2: `{"text":"a\nb\r\n"}`, 3: `{"text":"é"}`, 5: `{"text":"` + "\uFFFD" + `"}`} {
		if events[i].data != want {
			t.Errorf("event %d is %s, want %s", i+1, events[i].data, want)
		}
	}
	var last, started struct{ ID, Stdout string }
	if json.Unmarshal([]byte(events[6].data), &last) != nil || json.Unmarshal([]byte(events[0].data), &started) != nil ||
		last.Stdout != "café\uFFFD" || last.ID != started.ID || !strings.Contains(events[6].data, `"records":[0,1]`) {
		t.Errorf("started %s, ended %s", events[0].data, events[6].data)
	}
}

// A program cannot forge events: what it writes has no line breaks of its own.
func TestForgedEvents(t *testing.T) {
	const forged = "\n\nevent: ended\ndata: {}\n\r\u2028id: 9\n\n"
	w := newWorld()
	w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
		result := exited(0)
		result.Value = json.RawMessage("{\n\n\"a\":\n1}")
		result.Artifacts = []execution.Artifact{{Path: forged, MediaType: forged}}
		if job.Events != nil {
			for _, e := range []execution.Event{begun, out(forged), {Type: execution.EventArtifact, Artifact: &result.Artifacts[0]}} {
				job.Events(e)
			}
		}
		return result, nil
	}
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "Accept", "text/event-stream")
	if got := kinds(readEvents(t, a.body)); got != "1 started, 2 stdout, 3 artifact, 4 ended" {
		t.Errorf("%s", got)
	}
}

// Before the start an error is an ordinary problem; after it, an event.
func TestStreamThatFails(t *testing.T) {
	full := func(kind execution.RecordType) func(context.Context, execution.Record) error {
		return func(_ context.Context, r execution.Record) error {
			if r.Type == kind {
				return errors.New("no space left on device")
			}
			return nil
		}
	}
	tests := map[string]struct {
		arrange func(*world)
		status  int
		events  string
		want    string
	}{
		"denied": {func(w *world) {
			w.decide = func(execution.Question) execution.Decision { return execution.Deny("r", execution.Reason{Code: "no"}) }
		}, 403, "", `"code":"no"`},
		"not recorded": {func(w *world) { w.append = full(execution.RecordDecided) }, 503, "", "audit_unavailable"},
		"not started": {func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, &execution.Error{Kind: execution.KindUnavailable, Code: "engine_unavailable"}
			}
		}, 503, "", "engine_unavailable"},
		"engine lost": {func(w *world) {
			w.execute = func(ctx context.Context, job execution.Job) (execution.Result, error) {
				telling(begun, out("x\xc3"))(ctx, job)
				return execution.Result{}, io.ErrUnexpectedEOF
			}
		}, 200, "1 started, 2 stdout, 3 stdout, 4 error", `problems/internal`},
		"end not recorded": {func(w *world) { w.execute = telling(begun); w.append = full(execution.RecordEnded) }, 200, "1 started, 2 error", "audit_unavailable"},
		"panic": {func(w *world) {
			w.execute = func(ctx context.Context, job execution.Job) (execution.Result, error) {
				telling(begun)(ctx, job)
				panic("boom")
			}
		}, 200, "1 started, 2 error", `problems/internal`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			test.arrange(w)
			a := serve(t, w, nil).do("POST", "/v1/executions", callerToken, program, "Accept", "text/event-stream")
			if a.StatusCode != test.status || !strings.Contains(a.body, test.want) || strings.Contains(a.body, "event: ended") || strings.Contains(a.body, "EOF") {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if test.status == 200 && kinds(readEvents(t, a.body)) != test.events {
				t.Errorf("%s, want %s", kinds(readEvents(t, a.body)), test.events)
			} else if test.status != 200 {
				a.problem(t)
			}
		})
	}
}

// flood writes without end, until it is told that nobody listens.
func flood(taken *atomic.Int64) func(context.Context, execution.Job) (execution.Result, error) {
	return func(_ context.Context, job execution.Job) (execution.Result, error) {
		e := out(strings.Repeat("x", 32<<10))
		for err := job.Events(begun); err == nil; err = job.Events(e) {
			taken.Add(1)
		}
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil
	}
}

const asStream = "Accept: text/event-stream\r\n"

func withLength(headers, body string) string {
	return post(headers+fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
}

// A client that stops reading stalls its program: nothing more is taken from it,
// and after the time a response may take it is ended and that is recorded.
func TestClientThatStopsReadingAStream(t *testing.T) {
	// A busy machine may not come to send the first event in a short time.
	for limit := 2 * time.Second; ; limit *= 4 {
		err := stopsReading(t, limit)
		if err == nil {
			return
		}
		if limit > patience/4 {
			t.Fatalf("with %v for each event: %v", limit, err)
		}
	}
}

// stopsReading reads the first line of a stream, each event of which has so long to be
// taken, and no more. The error is that there was no such line.
func stopsReading(t *testing.T, limit time.Duration) error {
	w := newWorld()
	var taken atomic.Int64
	w.execute = flood(&taken)
	s := serve(t, w, func(c *gateway.Config) { c.WriteTimeout = limit })
	conn := s.dial()
	io.WriteString(conn, withLength(asStream, program))
	if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		return fmt.Errorf("%q, %w", line, err)
	}
	waitFor(t, "the end to be recorded", func() bool { return len(w.recorded()) == 2 })
	if r := w.recorded(); r[1].Ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("%+v", r[1].Ended)
	}
	// What fits into the buffers of two sockets on this machine, and no more.
	if n := taken.Load() * 32 << 10; n > 64<<20 {
		t.Errorf("%d bytes were taken from the program", n)
	}
	waitFor(t, "the line of the log", func() bool { return strings.Contains(s.log.String(), "i/o timeout") })
	return nil
}

// waitFor polls for what another goroutine brings about.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A slow client gets everything, and its program goes no faster than it.
func TestSlowClientOfAStream(t *testing.T) {
	w := newWorld()
	const pieces, size = 1024, 64 << 10 // more than all buffers on the way
	piece := strings.Repeat("x", size)
	var told atomic.Int64
	w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
		job.Events(begun)
		for i := range pieces {
			if err := job.Events(out(piece)); err != nil {
				t.Errorf("after %d: %v", i, err)
			}
			told.Add(size)
		}
		return exited(0), nil
	}
	s := serve(t, w, nil)
	conn := s.dial()
	io.WriteString(conn, withLength(asStream+"Connection: close\r\n", program))
	var read, ahead int64
	buffer := make([]byte, 4<<10)
	var tail []byte
	for {
		n, err := conn.Read(buffer)
		read += int64(n)
		tail = append(tail, buffer[:n]...)
		tail = tail[max(0, len(tail)-4096):]
		ahead = max(ahead, told.Load()-read)
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Contains(tail, []byte("event: ended")) || read < pieces*size {
		t.Errorf("%d bytes, %q", read, tail)
	}
	if ahead > pieces*size/2 {
		t.Errorf("the program was %d bytes ahead of its client", ahead)
	}
}

func TestHangUpOfAStream(t *testing.T) {
	w := newWorld()
	cancelled := make(chan struct{})
	w.execute = func(ctx context.Context, job execution.Job) (execution.Result, error) {
		job.Events(begun)
		<-ctx.Done()
		close(cancelled)
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil
	}
	s := serve(t, w, nil)
	conn := s.dial()
	io.WriteString(conn, withLength(asStream, program))
	for r := bufio.NewReader(conn); ; {
		if line, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		} else if strings.Contains(line, "event: started") {
			break
		}
	}
	conn.Close()
	await(t, cancelled, "cancellation")
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("records %+v", r)
	}
}

// An event that comes while the end is being told, from an executor that left it
// behind, changes nothing and reaches nobody.
func TestLateEvent(t *testing.T) {
	w := newWorld()
	var late sync.WaitGroup
	go1 := make(chan struct{})
	w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
		job.Events(begun)
		late.Go(func() {
			<-go1
			if err := job.Events(out("late")); err == nil {
				t.Error("it was taken")
			}
		})
		return exited(0), nil
	}
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "Accept", "text/event-stream")
	waitFor(t, "the request to end", func() bool { return strings.Contains(s.log.String(), `"msg":"request"`) })
	close(go1)
	late.Wait()
	if got := kinds(readEvents(t, a.body)); got != "1 started, 2 ended" {
		t.Error(got)
	}
}

// recorder takes a response without a connection, in the bubble's time.
type recorder struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ResponseRecorder.Write(p)
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Body.String()
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
			time.Sleep(20 * time.Second) // nothing is sent before the start: it may yet be a problem
			job.Events(begun)
			time.Sleep(time.Minute)
			return exited(0), nil
		}
		service := w.service(t)
		g, err := gateway.New(gateway.Config{Service: service, Authenticator: doorman{}, Keys: &ring{w: w}, Recorder: w, Logger: discard()})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(method, path, body string, headers ...string) *recorder {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+callerToken)
			r.Header.Set("Content-Type", "application/json")
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			answer := &recorder{ResponseRecorder: httptest.NewRecorder()}
			g.Handler().ServeHTTP(answer, r)
			return answer
		}
		straight := ask("POST", "/v1/executions", program, "Accept", "text/event-stream")
		if n := strings.Count(straight.text(), ":\n\n"); n != 4 {
			t.Errorf("%d heartbeats in a minute:\n%s", n, straight.text())
		}
		accepted := ask("POST", "/v1/executions", program, "Prefer", "respond-async")
		follower := ask("GET", accepted.Header().Get("Location")+"/events", "")
		if n := strings.Count(follower.text(), ":\n\n"); n != 6 { // one at once
			t.Errorf("%d heartbeats in 80 seconds:\n%s", n, follower.text())
		}
	})
}

func BenchmarkStream(b *testing.B) {
	w := newWorld()
	events := []execution.Event{begun}
	for i := range 100 {
		events = append(events, out(strconv.Itoa(i)))
	}
	w.execute = telling(events...)
	s := serve(b, w, nil)
	for b.Loop() {
		if a := s.do("POST", "/v1/executions", callerToken, program, "Accept", "text/event-stream"); a.StatusCode != http.StatusOK {
			b.Fatal(a.body)
		}
		w.mu.Lock()
		w.events, w.records = w.events[:0], w.records[:0]
		w.mu.Unlock()
	}
}
