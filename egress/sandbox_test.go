package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// sandbox is a program's side of a broker, whose destination api.test is a server
// with TLS that answers with all that it receives.
type sandbox struct {
	t         testing.TB
	broker    *Broker
	log       *memory
	authority *tls.Certificate
	job       execution.Job
	to        execution.Destination
	upstream  *httptest.Server
	carries   sync.WaitGroup

	mu       sync.Mutex
	received []received
	conns    int // of the destination, that are open
	opened   int // of it, ever
}

// received is a request as the destination got it.
type received struct {
	Method, URI, Host, Proto string
	Header                   http.Header
	Body                     string
	Trailer                  http.Header
}

// newSandbox starts one. handle is the destination; nil: the one that echoes.
func newSandbox(t testing.TB, c Config, handle http.HandlerFunc) *sandbox {
	t.Helper()
	s := &sandbox{t: t, log: &memory{}}
	s.upstream = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // an attack may end it early
		got := received{r.Method, r.RequestURI, r.Host, r.Proto, r.Header.Clone(), string(body), r.Trailer}
		s.mu.Lock()
		s.received = append(s.received, got)
		s.mu.Unlock()
		if handle != nil {
			handle(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(got)
	}))
	issuer, err := (&Broker{}).Authority()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := new(leaves).of(issuer, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	s.upstream.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
	s.upstream.EnableHTTP2 = true
	s.upstream.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.conns++
			s.opened++
		case http.StateClosed, http.StateHijacked:
			s.conns--
		}
	}
	s.upstream.StartTLS()
	t.Cleanup(s.upstream.Close)
	if c.Roots == nil {
		c.Roots = x509.NewCertPool()
		c.Roots.AddCert(issuer.Leaf)
	}
	if c.Recorder == nil {
		c.Recorder = s.log
	}
	s.broker = newBroker(t, c)
	if s.authority, err = s.broker.Authority(); err != nil {
		t.Fatal(err)
	}
	s.to = execution.Destination{Host: "api.test", Port: s.upstream.Listener.Addr().(*net.TCPAddr).Port}
	s.job = jobTo(s.to, plenty)
	s.job.Grant.Network.Rules[0].Mode = execution.NetworkIntercept
	t.Cleanup(s.carries.Wait)
	return s
}

func (s *sandbox) rule() *execution.NetworkRule { return &s.job.Grant.Network.Rules[0] }

func (s *sandbox) requests() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.received...)
}

// connections are how many were opened to the destination.
func (s *sandbox) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// noneOpen waits until the destination has no connection any more.
func (s *sandbox) noneOpen() {
	s.t.Helper()
	open := 1
	for until := time.Now().Add(patience); open > 0 && time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		open = s.conns
		s.mu.Unlock()
	}
	if open > 0 {
		s.t.Errorf("%d connections to the destination are open", open)
	}
}

// dial opens a connection as a program does, by name and port.
func (s *sandbox) dial(to execution.Destination) *net.TCPConn {
	program, gateway := pair(s.t)
	job := s.job
	s.carries.Go(func() { s.broker.Carry(s.t.Context(), &job, s.authority, to, gateway) })
	return program
}

// trust is the TLS configuration of a program that trusts the sandbox's authority.
func (s *sandbox) trust(name string, protocols ...string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.authority.Leaf)
	return &tls.Config{RootCAs: roots, ServerName: name, NextProtos: protocols}
}

// client is an HTTP client in the sandbox.
func (s *sandbox) client(http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			n, err := net.LookupPort("tcp", port)
			return s.dial(execution.Destination{Host: host, Port: n}), err
		},
		TLSClientConfig: s.trust(""), Protocols: protocols, DisableCompression: true,
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *sandbox) url(path string) string {
	return "https://" + s.authorityOf() + path
}

func (s *sandbox) authorityOf() string {
	return destination{host: s.to.Host, port: s.to.Port}.authority(true)
}

// do sends a request and reads the answer.
func (s *sandbox) do(c *http.Client, r *http.Request) (*http.Response, string) {
	s.t.Helper()
	res, err := c.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res, string(body)
}

// raw sends bytes over a connection with TLS, and returns all that comes back.
func (s *sandbox) raw(text string) string {
	s.t.Helper()
	c := tls.Client(s.dial(s.to), s.trust("api.test", "http/1.1"))
	defer c.Close()
	write(s.t, c, strings.ReplaceAll(text, "$HOST", s.authorityOf()))
	return readAll(s.t, c)
}

// problemIn reads a refusal.
func problemIn(t testing.TB, res *http.Response, body string) (p problem) {
	t.Helper()
	if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("status %d, content type %q: %.300s", res.StatusCode, got, body)
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != res.StatusCode || p.Detail == "" {
		t.Errorf("status %d: %+v", res.StatusCode, p)
	}
	return p
}

// lender is a store of credentials.
type lender struct {
	fields map[string]map[string]string // by tool
	err    error

	mu   sync.Mutex
	uses []string
}

func (l *lender) Value(_ context.Context, executionID, tool string) (map[string]execution.Secret, execution.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uses = append(l.uses, executionID+" "+tool)
	if l.err != nil {
		return nil, execution.Lease{}, l.err
	}
	fields := map[string]execution.Secret{}
	for name, value := range l.fields[tool] {
		fields[name] = execution.NewSecret(value)
	}
	return fields, execution.Lease{Tool: tool}, nil
}

// bind grants the sandbox a credential.
func (s *sandbox) bind(tool string, bind execution.Binding) *execution.Credential {
	if bind.Host == "" {
		bind.Host, bind.Port = s.to.Host, s.to.Port
	}
	s.job.Grant.Credentials = append(s.job.Grant.Credentials, execution.Credential{Tool: tool, Inject: execution.InjectEgress, Bind: []execution.Binding{bind}})
	return &s.job.Grant.Credentials[len(s.job.Grant.Credentials)-1]
}

func request(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		r.Body, r.ContentLength = nil, 0
	}
	return r
}
