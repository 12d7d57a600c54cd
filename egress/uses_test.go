package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// rationed is a store of one credential that may be used so often.
type rationed struct {
	lender
	left atomic.Int64
}

func (r *rationed) Value(ctx context.Context, executionID, tool string) (map[string]execution.Secret, execution.Lease, error) {
	if r.left.Add(-1) < 0 {
		return nil, execution.Lease{}, &execution.Error{Kind: execution.KindDenied, Code: "lease_used_up"}
	}
	return r.lender.Value(ctx, executionID, tool)
}

// However many requests are made at once, and however many addresses each of them tries,
// as many leave with the credential as it may be used, and the others do not leave.
func TestUsesAreExact(t *testing.T) {
	const workers, each, uses = 8, 4, 11
	store := &rationed{lender: lender{fields: map[string]map[string]string{"api": {"token": secret}}}}
	store.left.Store(uses)
	closed := netip.MustParseAddr("127.0.0.2") // nobody listens there
	s := newSandbox(t, Config{Credentials: store, Resolver: addresses{closed, loopback[0]}}, nil)
	s.bind("api", execution.Binding{Mode: "bearer"})
	s.job.Grant.Network.Budget.Connections = workers
	var all sync.WaitGroup
	var answered, refused atomic.Int64
	for i := range workers {
		c := s.client(i%2 == 0)
		all.Go(func() {
			for range each {
				res, err := c.Do(request(t, "POST", s.url("/"), "hello"))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				switch res.StatusCode {
				case http.StatusOK:
					answered.Add(1)
				case http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("answered: %s", res.Status)
				}
			}
		})
	}
	all.Wait()
	if answered.Load() != uses || refused.Load() != workers*each-uses {
		t.Errorf("%d were answered and %d refused, of %d uses", answered.Load(), refused.Load(), uses)
	}
	got := s.requests()
	for _, r := range got {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			t.Errorf("received without it: %+v", r)
		}
	}
	if len(got) != uses {
		t.Errorf("%d requests were received", len(got))
	}
}

// Where a connection that was used before breaks off, a request that changes nothing is
// sent once more, which is one use and has one record; any other is not.
func TestWhatIsSentAgain(t *testing.T) {
	for method, want := range map[string]int64{"GET": 2, "POST": 1, "DELETE": 1} {
		const tries = 10
		done := false
		for n := 0; n < tries && !done; n++ {
			done = sentAgain(t, method, want)
		}
		if !done {
			t.Errorf("%s: no connection was used twice in %d tries", method, tries)
		}
	}
}

// sentAgain reports whether there was a connection that was used before: one of HTTP/1 is
// not kept where its writer was held up (net/http, maxWriteWaitBeforeConnReuse).
func sentAgain(t *testing.T, method string, want int64) bool {
	l, _ := listen(t)
	store := &lender{fields: map[string]map[string]string{"api": {"token": secret}}}
	s := newSandbox(t, Config{Credentials: store}, nil)
	s.bind("api", execution.Binding{Mode: "bearer", Paths: []string{"/keyed"}})
	var keyed atomic.Int64
	var used atomic.Bool // before the first that is keyed
	serve(t, l, func(c *net.TCPConn) {
		secured := tls.Server(c, &tls.Config{Certificates: s.upstream.TLS.Certificates})
		defer secured.Close()
		reader := bufio.NewReader(secured)
		for first := true; ; first = false {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/keyed" {
				if keyed.Add(1) == 1 {
					used.Store(!first)
				}
				if !first {
					return // it was received, and is not answered
				}
			}
			if _, err := io.WriteString(secured, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
	s.to.Port = l.Addr().(*net.TCPAddr).Port
	s.rule().Ports, s.job.Grant.Credentials[0].Bind[0].Port = []int{s.to.Port}, s.to.Port
	c := s.client(true)
	s.do(c, request(t, "GET", s.url("/"), ""))
	res, body := s.do(c, request(t, method, s.url("/keyed"), ""))
	if !used.Load() {
		return false
	}
	if again := want == 2; again != (res.StatusCode == 200) || !again && problemIn(t, res, body).Code != codeUpstream {
		t.Errorf("%s: answered %s %s", method, res.Status, body)
	}
	if keyed.Load() != want || len(store.uses) != 1 {
		t.Errorf("%s: received %d times, %d uses", method, keyed.Load(), len(store.uses))
	}
	ending := "end "
	if want == 1 {
		ending += codeUpstream
	}
	if diff := cmp.Diff([]string{"allow", "end ", "allow", ending}, s.log.codes()); diff != "" {
		t.Errorf("%s: %s", method, diff)
	}
	return true
}

// net/http changes the case of a header's name, and so that of a secret in it.
func TestSecretInTheNameOfAHeader(t *testing.T) {
	for _, key := range []string{"a1b2c3d4e5f6a7b8", "sk-live-AbCdEf0123"} {
		store := &lender{fields: map[string]map[string]string{"api": {"token": key}}}
		for _, http2 := range []bool{false, true} {
			s := newSandbox(t, Config{Credentials: store}, func(w http.ResponseWriter, r *http.Request) {
				back := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				w.Header()["X-"+back] = []string{"1"}
				w.Header()["Trailer"] = []string{back}
				_, _ = io.WriteString(w, "ok")
				w.Header()[back] = []string{"2"}
			})
			s.bind("api", execution.Binding{Mode: "bearer"})
			res, _ := s.do(s.client(http2), request(t, "GET", s.url("/"), ""))
			for _, h := range []http.Header{res.Header, res.Trailer} {
				for name := range h {
					if strings.Contains(strings.ToLower(name), strings.ToLower(key)) {
						t.Errorf("http2 %v: it has come back: %q", http2, name)
					}
				}
			}
		}
	}
}
