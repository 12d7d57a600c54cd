package egress

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// agree takes a request over as a WebSocket's server does, and gives its bytes to
// serve.
func agree(t testing.TB, serve func(rw *bufio.ReadWriter, r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: accepted\r\n\r\n")
		_ = rw.Flush()
		serve(rw, r)
	}
}

const socketRequest = "GET /ws HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a2V5\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"

// connect opens a WebSocket and reads the answer's head.
func (s *sandbox) connect() (*tls.Conn, *bufio.Reader) {
	s.t.Helper()
	c := tls.Client(s.dial(s.to), s.trust("api.test", "http/1.1"))
	write(s.t, c, strings.ReplaceAll(socketRequest, "$HOST", s.authorityOf()))
	reader := bufio.NewReader(c)
	res, err := http.ReadResponse(reader, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "accepted" || res.Header.Get("Upgrade") != "websocket" {
		s.t.Fatalf("%v, %+v", err, res)
	}
	return c, reader
}

func TestWebSocketWhereTheRuleSaysSo(t *testing.T) {
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
	s.upstream.Config.Handler = agree(t, func(rw *bufio.ReadWriter, r *http.Request) {
		if r.Header.Get("Sec-WebSocket-Extensions") != "" || r.Header.Get("Authorization") != "Bearer "+secret {
			t.Errorf("received: %v", r.Header)
		}
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = rw.WriteString("you said " + line)
			_ = rw.Flush()
		}
	})
	s.rule().WebSocket = true
	s.bind("api", execution.Binding{Mode: "bearer"})
	c, reader := s.connect()
	for range 3 {
		write(t, c, "hello\r\n") // what is no head of HTTP
		if got, err := reader.ReadString('\n'); got != "you said hello\r\n" {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	c.Close()
	s.carries.Wait()
	if diff := cmp.Diff([]string{"allow", "end "}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
	if end := s.log.all()[1].EgressEnded; end.Status != 101 || end.BytesOut != 21 || end.BytesIn != 48 {
		t.Errorf("recorded: %+v", end)
	}
}

// A secret that comes back over a WebSocket ends it, before it is shown.
func TestWebSocketThatReflects(t *testing.T) {
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
	s.upstream.Config.Handler = agree(t, func(rw *bufio.ReadWriter, r *http.Request) {
		for _, c := range []byte("before it " + secret + " after it") {
			_ = rw.WriteByte(c)
			_ = rw.Flush()
		}
		_, _ = rw.ReadByte()
	})
	s.rule().WebSocket = true
	s.bind("api", execution.Binding{Mode: "bearer"})
	c, reader := s.connect()
	got, _ := io.ReadAll(reader) // it is broken off
	if text := string(got); !strings.HasPrefix(text, "before it ") || len(text) > len("before it ")+maxShown {
		t.Errorf("read %q", text)
	}
	c.Close()
	s.carries.Wait()
	if diff := cmp.Diff([]string{"allow", "end " + codeSecretReflected}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

// The head by which a destination agrees is scrubbed too, and has no more than it needs.
func TestAgreementThatReflects(t *testing.T) {
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
	s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 " + secret + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Back: " + secret + "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" +
			"Sec-WebSocket-Accept: a" + secret + "\r\nSec-WebSocket-Protocol: b" + secret + "\r\n\r\n")
		_ = rw.Flush()
	})
	s.rule().WebSocket = true
	s.bind("api", execution.Binding{Mode: "bearer"})
	c := tls.Client(s.dial(s.to), s.trust("api.test", "http/1.1"))
	write(t, c, strings.ReplaceAll(socketRequest, "$HOST", s.authorityOf()))
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Accept: a[redacted]\r\nSec-Websocket-Protocol: b[redacted]\r\nUpgrade: websocket\r\n\r\n"
	if got := readAll(t, c); got != want {
		t.Errorf("answered: %q", got)
	}
}

func TestWebSocketOfAStrictBinding(t *testing.T) {
	store := &lender{fields: map[string]map[string]string{"api": {"token": secret}}}
	s := newSandbox(t, Config{Credentials: store}, nil)
	s.rule().WebSocket = true
	s.bind("api", execution.Binding{Mode: "bearer"}).Strict = true
	if got := s.raw(strings.Replace(socketRequest, "Connection: Upgrade", "Connection: Upgrade, close", 1)); !strings.Contains(got, codeUnscrubbable) {
		t.Errorf("answered: %s", got)
	}
	if len(store.uses) > 0 || len(s.requests()) > 0 {
		t.Error("it was fetched or sent all the same")
	}
}

// What does not agree to a WebSocket answers like any other.
func TestWebSocketThatIsNotAgreedTo(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.rule().WebSocket = true
	if got := s.raw(strings.Replace(socketRequest, "Connection: Upgrade", "Connection: Upgrade, close", 1)); !strings.HasPrefix(got, "HTTP/1.1 200 OK") {
		t.Errorf("answered: %s", got)
	}
}
