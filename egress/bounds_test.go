package egress

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestEndlessBodyEndsWithTheBudget(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := lending(t, nil)
		s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		})
		s.job.Grant.Network.Budget.Bytes = 1 << 20
		res, err := s.client(http2).Do(request(t, "GET", s.url("/"), ""))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); err == nil || n > 1<<20 {
			t.Errorf("http2 %v: read %d bytes, %v", http2, n, err)
		}
		res.Body.Close()
		if used := s.broker.account(t.Context(), &s.job).usage(); used.Bytes != 1<<20 {
			t.Errorf("http2 %v: %d bytes are counted", http2, used.Bytes)
		}
	}
}

func TestEndlessHeadOfAnAnswer(t *testing.T) {
	s := lending(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 2 * maxAnswerHead / 1024 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("a", 1024))
		}
	})
	res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeUpstream {
		t.Errorf("%+v", p)
	}
}

// A program that does not read its answer holds nothing for longer than a connection
// may be idle.
func TestProgramThatDoesNotRead(t *testing.T) {
	lengthening(t, 200*time.Millisecond, func(t testing.TB, wait time.Duration) {
		s := newSandbox(t, Config{IdleTimeout: wait}, nil)
		s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		c := tls.Client(s.dial(s.to), s.trust("api.test"))
		write(t, c, "GET / HTTP/1.1\r\nHost: "+s.authorityOf()+"\r\n\r\n")
		s.carries.Wait()
		if codes := s.log.codes(); len(codes) != 2 || !strings.HasPrefix(codes[1], "end ") || codes[1] == "end " {
			t.Errorf("recorded: %v", codes)
		}
	})
}

func TestProgramThatNeverFinishesItsHead(t *testing.T) {
	lengthening(t, 200*time.Millisecond, func(t testing.TB, wait time.Duration) {
		s := newSandbox(t, Config{IdleTimeout: wait}, nil)
		for _, text := range []string{"GET / HTTP/1.1\r\nHost: ", "GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n"} { // or asks for nothing more
			c := tls.Client(s.dial(s.to), s.trust("api.test"))
			write(t, c, strings.ReplaceAll(text, "$HOST", s.authorityOf()))
			readAll(t, c)
		}
		s.carries.Wait()
		if got := len(s.requests()); got != 1 {
			t.Errorf("%d requests were received", got)
		}
	})
}

// Requests at once share the budget, the secrets and the connections of one another.
func TestRequestsAtOnce(t *testing.T) {
	const workers, each = 8, 10
	s := lending(t, nil)
	s.job.Grant.Network.Budget = execution.NetworkBudget{Requests: workers*each - 3, Bytes: 1 << 30, RequestsPerS: 1 << 20, Connections: workers}
	var mu sync.Mutex
	var statuses []int
	var all sync.WaitGroup
	for i := range workers {
		c := s.client(i%2 == 0)
		all.Go(func() {
			for range each {
				res, err := c.Do(request(t, "POST", s.url("/"), "hello"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || strings.Contains(string(body), "Xk8/pQ") {
					t.Errorf("%v: %s", err, body)
				}
				mu.Lock()
				statuses = append(statuses, res.StatusCode)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(statuses)
	if i := slices.Index(statuses, 429); len(statuses) != workers*each || i != workers*each-3 || statuses[0] != 200 {
		t.Errorf("answered: %v", statuses)
	}
	if got := len(s.requests()); got != workers*each-3 {
		t.Errorf("%d requests were received", got)
	}
}

// The executor's connections are streams whose Close need not wake a reader.
type sleepy struct{ *net.TCPConn }

func (s sleepy) Close() error { return s.CloseWrite() }

func TestCarryOfAStreamThatDoesNotWake(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		lengthening(t, 200*time.Millisecond, func(t testing.TB, wait time.Duration) {
			s := newSandbox(t, Config{IdleTimeout: wait}, nil)
			program, gateway := pair(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.broker.Carry(t.Context(), &s.job, s.authority, s.to, sleepy{gateway})
			}()
			c := tls.Client(program, s.trust("api.test", map[bool]string{false: "http/1.1", true: "h2"}[http2]))
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			if http2 { // its preface and empty settings (RFC 9113, 3.4)
				write(t, c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			}
			carried{program, done}.wait(t) // nothing is asked for
		})
	}
}
