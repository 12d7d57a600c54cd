package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// These tests speak over raw sockets, where a client library would put right
// what they are about. patience only bounds a test that fails.
const patience = 2 * time.Minute

func (s *site) dial() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// raw sends text and returns everything that comes back until the gateway
// closes the connection.
func (s *site) raw(text string) string {
	s.t.Helper()
	conn := s.dial()
	go io.WriteString(conn, text) // ends with the connection
	answer, err := io.ReadAll(conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		s.t.Fatalf("the connection stays open after %q", answer)
	}
	return string(answer)
}

func post(headers, body string) string {
	return "POST /v1/executions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + callerToken +
		"\r\nContent-Type: application/json\r\n" + headers + "\r\n" + body
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	s := serve(t, newWorld(), func(c *gateway.Config) { c.ReadHeaderTimeout = 50 * time.Millisecond })
	if got := s.raw("POST /v1/executions HTTP/1.1\r\nHost: gateway\r\nX-Slow: "); strings.Contains(got, "200") {
		t.Errorf("got %q", got)
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	w := newWorld()
	var got string
	// A busy machine may not come to read the headers within the time that all has.
	for limit := 50 * time.Millisecond; got == "" && limit < patience/4; limit *= 4 {
		s := serve(t, w, func(c *gateway.Config) { c.ReadTimeout = limit })
		got = s.raw(post("Content-Length: 1000\r\n", `{"language":`))
	}
	if !strings.HasPrefix(got, "HTTP/1.1 400") || !strings.Contains(got, "body_incomplete") {
		t.Errorf("got %q", got)
	}
	if w.history() != "" {
		t.Errorf("history %q", w.history())
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	s := serve(t, newWorld(), func(c *gateway.Config) { c.IdleTimeout = 50 * time.Millisecond })
	if got := s.raw("GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("got %q", got)
	}
}

func TestGiantHeadersAreRefused(t *testing.T) {
	s := serve(t, newWorld(), nil)
	for name, text := range map[string]string{
		"one header":   "GET /healthz HTTP/1.1\r\nHost: gateway\r\nX-Big: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"many headers": "GET /healthz HTTP/1.1\r\nHost: gateway\r\n" + strings.Repeat("X-Small: a\r\n", 1<<16) + "\r\n",
		"request line": "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: gateway\r\n\r\n",
	} {
		if got := s.raw(text); got != "" && !strings.HasPrefix(got, "HTTP/1.1 431") {
			t.Errorf("%s: %.100q", name, got)
		}
	}
}

func TestGiantBodyIsRefusedBeforeItIsRead(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	// Announced: answered from the announcement; none of the body is ever sent.
	if got := s.raw(post("Content-Length: 17179869184\r\nConnection: close\r\n", "")); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("announced: %.100q", got)
	}
	s = serve(t, w, func(c *gateway.Config) { c.MaxBodyBytes = 1 << 20 })
	// Not announced: answered once the bound is passed, while the sender goes on.
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<16, strings.Repeat(" ", 1<<16))
	got := s.raw(post("Transfer-Encoding: chunked\r\n", strings.Repeat(chunk, 64)))
	if got != "" && !strings.HasPrefix(got, "HTTP/1.1 413") { // the reset may overtake the answer
		t.Errorf("in chunks: %.100q", got)
	}
	if a := s.do("POST", "/v1/executions", callerToken, `{"language":"python","code":"`+strings.Repeat("x", 1<<20)+`"}`); a.StatusCode != 413 {
		t.Errorf("just above: %d", a.StatusCode)
	}
	if w.history() != "" {
		t.Errorf("history %q", w.history())
	}
}

// Who is not let in costs the gateway nothing but the headers.
func TestStrangerIsAnsweredBeforeTheBody(t *testing.T) {
	s := serve(t, newWorld(), nil)
	conn := s.dial()
	io.WriteString(conn, "POST /v1/executions HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != 401 {
		t.Fatalf("%v %v", response, err)
	}
}

// What could be read as two requests by another, or as one with another sender,
// is refused, or read in the one way the RFC names, and never answered twice.
func TestAmbiguousRequests(t *testing.T) {
	length := fmt.Sprintf("Content-Length: %d\r\n", len(program))
	second := "GET /v1/keys HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer admin/default\r\n\r\n"
	tests := []struct{ name, text, status string }{
		{"two lengths", post(length+"Content-Length: 1\r\n", program), "400"},
		{"length list", post("Content-Length: 38, 38\r\n", program), "400"},
		{"signed length", post("Content-Length: +38\r\n", program), "400"},
		{"negative length", post("Content-Length: -1\r\n", program), "400"},
		{"length in hex", post("Content-Length: 0x26\r\n", program), "400"},
		{"unknown transfer encoding", post("Transfer-Encoding: gzip\r\n", program), "501"},
		{"chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "501"},
		{"chunked, disguised", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), "501"},
		{"space before the colon", post("Content-Length : 38\r\n", program), "400"},
		{"NUL in a header", post("X-A: a\x00b\r\n"+length, program), "400"},
		{"CR in a header", post("X-A: a\rb\r\n"+length, program), "400"},
		{"two hosts", post("Host: other\r\n"+length, program), "400"},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", "400"},
		{"two credentials", post("Authorization: Bearer admin/default\r\n"+length, program), "401"},
		{"bad chunk size", post("Transfer-Encoding: chunked\r\n", "zz\r\n"+program), "400"},
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			s := serve(t, w, nil)
			text := test.text
			if strings.HasSuffix(text, program) { // a request of its own inside or behind it
				text += second
			}
			got := s.raw(strings.Replace(text, "\r\nHost: gateway", "\r\nConnection: close\r\nHost: gateway", 1))
			if !strings.HasPrefix(got, "HTTP/1.1 "+test.status) || strings.Count(got, "HTTP/1.") != 1 {
				t.Errorf("got %q, want %s once", got, test.status)
			}
			if strings.Contains(w.history(), "execute") {
				t.Error("it ran")
			}
		})
	}
	// Both a length and chunks: chunks count (RFC 9112, section 6.3).
	t.Run("length and chunks", func(t *testing.T) {
		s := serve(t, newWorld(), nil)
		got := s.raw(post("Connection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(program), program)))
		if !strings.HasPrefix(got, "HTTP/1.1 200") || strings.Count(got, "HTTP/1.") != 1 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("odd targets", func(t *testing.T) {
		s := serve(t, newWorld(), nil)
		for _, line := range []string{"OPTIONS *", "CONNECT evil.example:443", "GET http://evil.example/v1/keys", "POST //v1/executions", "GET /../v1/keys", "GET /v1/keys;x", "GET ?", "GET /healthz%2f..%2f"} {
			got := s.raw(line + " HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
			if strings.HasPrefix(got, "HTTP/1.1 2") {
				t.Errorf("%s: %.100q", line, got)
			}
		}
	})
}

// Invariant 5: a client that hangs up stops its program, also where its body was
// read long before, and its end is recorded.
func TestClientHangsUp(t *testing.T) {
	w := newWorld()
	started, cancelled := make(chan struct{}), make(chan struct{})
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		close(started)
		<-ctx.Done()
		close(cancelled)
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil
	}
	s := serve(t, w, nil)
	conn := s.dial()
	io.WriteString(conn, post(fmt.Sprintf("Content-Length: %d\r\n", len(program)), program))
	await(t, started, "start")
	conn.Close()
	await(t, cancelled, "cancellation")
	if err := s.stop(); err != nil { // waits for the end to be recorded
		t.Error(err)
	}
	if r := w.recorded(); len(r) != 2 || r[1].Ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("records %+v", r)
	}
}

// A program may run for longer than any timeout of the connection.
func TestLongProgramOutlastsTheTimeouts(t *testing.T) {
	// A busy machine may not come to send a request, or an answer, in a short time; a
	// deadline that is taken for a hang-up shows with any.
	for limit := 100 * time.Millisecond; ; limit *= 4 {
		err := outlasts(t, limit)
		if err == nil {
			return
		}
		if limit > 5*time.Second {
			t.Fatalf("with timeouts of %v: %v", limit, err)
		}
	}
}

// outlasts runs two programs on one connection, each longer than its timeouts.
func outlasts(t *testing.T, limit time.Duration) error {
	w := newWorld()
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		select {
		case <-ctx.Done():
			return execution.Result{Outcome: execution.OutcomeCancelled}, nil
		case <-time.After(3 * limit):
			return exited(0), nil
		}
	}
	s := serve(t, w, func(c *gateway.Config) {
		c.ReadHeaderTimeout, c.ReadTimeout, c.WriteTimeout, c.IdleTimeout = limit, limit, limit, patience
	})
	conn := s.dial()
	answers := bufio.NewReader(conn)
	for range 2 {
		if _, err := io.WriteString(conn, withLength("", program)); err != nil {
			return err
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if !bytes.Contains(body, []byte(`"outcome":"exited"`)) {
			return fmt.Errorf("%s: %s", response.Status, body)
		}
	}
	return nil
}

// A client that does not read its response does not hold the gateway.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		r := exited(0)
		r.Stdout = bytes.Repeat([]byte("x"), 16<<20) // more than the sockets' buffers
		return r, nil
	}
	s := serve(t, w, func(c *gateway.Config) { c.WriteTimeout = 100 * time.Millisecond })
	conn := s.dial()
	io.WriteString(conn, post(fmt.Sprintf("Content-Length: %d\r\n", len(program)), program))
	deadline := time.Now().Add(patience)
	for !strings.Contains(s.log.String(), "i/o timeout") {
		if time.Now().After(deadline) {
			t.Fatalf("the write goes on: %s", s.log.String())
		}
		time.Sleep(5 * time.Millisecond) // polls for what another process would see
	}
}

func TestServeDrains(t *testing.T) {
	w := newWorld()
	started, release := make(chan struct{}), make(chan struct{})
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		close(started)
		<-release
		return exited(0), nil
	}
	s := serve(t, w, func(c *gateway.Config) { c.DrainTimeout = patience })
	answers := make(chan answer, 1)
	go func() { answers <- s.do("POST", "/v1/executions", callerToken, program) }()
	await(t, started, "start")
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	// While it drains, it says so, and takes no more work.
	deadline := time.Now().Add(patience)
	for s.service.Ready(t.Context()) == nil {
		if time.Now().After(deadline) {
			t.Fatal("it does not drain")
		}
		time.Sleep(time.Millisecond)
	}
	if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 503 || a.problem(t).Code != "draining" || a.Header.Get("Retry-After") == "" {
		t.Errorf("new work: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("GET", "/readyz", "", ""); a.StatusCode != 503 {
		t.Errorf("readyz: %d", a.StatusCode)
	}
	close(release)
	if a := <-answers; a.StatusCode != 200 {
		t.Errorf("what ran: %d %s", a.StatusCode, a.body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", s.address); err == nil {
		t.Error("it still listens")
	}
}

func TestServeReturnsWhenTheListenerFails(t *testing.T) {
	s := serve(t, newWorld(), nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	other, err := gateway.New(gateway.Config{Service: newWorld().service(t), Authenticator: doorman{}, Keys: &ring{}, Recorder: s.world, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Serve(t.Context(), listener); err == nil {
		t.Error("no error from a closed listener")
	}
}

func await(t *testing.T, event <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
}
