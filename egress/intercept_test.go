package egress

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/execgate/execgate/execution"
)

func TestRequestIsCarriedAndRecorded(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			s := newSandbox(t, Config{}, nil)
			r := request(t, "POST", s.url("/v1/%7Eitems/caf%c3%a9?q=a%20b&key=secret"), "hello")
			r.Header.Set("X-Custom", "kept")
			r.Header.Set("Connection", "X-Hop")
			r.Header.Set("X-Hop", "dropped")
			r.Header.Set("Proxy-Authorization", "dropped")
			if http2 {
				r.Header.Del("Connection") // the client refuses it
				r.Header.Del("X-Hop")
			}
			res, body := s.do(s.client(http2), r)
			if res.StatusCode != 200 || res.ProtoMajor != map[bool]int{false: 1, true: 2}[http2] {
				t.Fatalf("%s %s: %s", res.Proto, res.Status, body)
			}
			got := s.requests()[0]
			if got.Method != "POST" || got.URI != "/v1/~items/caf%C3%A9?q=a%20b&key=secret" || got.Host != s.authorityOf() || got.Body != "hello" {
				t.Errorf("received: %+v", got)
			}
			for name, want := range map[string]string{"X-Custom": "kept", "X-Hop": "", "Proxy-Authorization": "", "Accept-Encoding": "identity"} {
				if got.Header.Get(name) != want {
					t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
				}
			}
			who := asker()
			want := []execution.Record{
				{Seq: 0, Type: execution.RecordEgressDecided, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressDecided: &execution.EgressDecided{
					Host: "api.test", Port: s.to.Port, Mode: execution.NetworkIntercept, Effect: execution.EffectAllow,
					Address: s.upstream.Listener.Addr().String(), Method: "POST", Path: "/v1/~items/caf%C3%A9", Rule: "api.test",
				}},
				{Seq: 1, Type: execution.RecordEgressEnded, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressEnded: &execution.EgressEnded{
					DecidedSeq: 0, Status: 200, BytesOut: 5, BytesIn: int64(len(body)),
				}},
			}
			ignore := []cmp.Option{cmpopts.IgnoreFields(execution.Record{}, "Time"), cmpopts.IgnoreFields(execution.EgressEnded{}, "WallMS")}
			if diff := cmp.Diff(want, s.log.all(), ignore...); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestsShareAConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newSandbox(t, Config{}, nil)
		c := s.client(http2)
		for range 5 {
			s.do(c, request(t, "GET", s.url("/"), ""))
		}
		if got := s.broker.account(t.Context(), &s.job).usage().Requests; got != 5 {
			t.Errorf("%d requests are counted", got)
		}
	}
}

func TestRulesOpenRequests(t *testing.T) {
	rule := func(host string, methods, paths []string) execution.NetworkRule {
		return execution.NetworkRule{Host: host, Ports: []int{443}, Methods: methods, Paths: paths, Mode: execution.NetworkIntercept}
	}
	rules := execution.Network{Rules: []execution.NetworkRule{
		rule("*.test", nil, nil), // of no account where a rule names the host
		rule("api.test", []string{"GET"}, []string{"/v1/*", "/status"}),
		rule("api.test", []string{"POST"}, []string{"/v1/items"}),
	}}
	for _, tt := range []struct{ host, method, path, code string }{
		{"api.test", "GET", "/v1/x/y", ""},
		{"api.test", "GET", "/v1/", ""},
		{"api.test", "GET", "/v1", codePathNotOpen},
		{"api.test", "GET", "/status", ""},
		{"api.test", "GET", "/status/x", codePathNotOpen},
		{"api.test", "POST", "/v1/items", ""},
		{"api.test", "POST", "/v1/items/", codePathNotOpen},
		{"api.test", "DELETE", "/v1/items", codeMethodNotOpen},
		{"www.test", "DELETE", "/anything", ""},
	} {
		first, _ := match(rules.Rules, execution.Destination{Host: tt.host, Port: 443})
		if _, code := open(rules, destination{tt.host, 443, first}, question{method: tt.method, path: tt.path}); code != tt.code {
			t.Errorf("%s %s%s: %q, want %q", tt.method, tt.host, tt.path, code, tt.code)
		}
	}
}

// policyOf is a Decider.
type policyOf func(execution.EgressRequest) execution.Decision

func (p policyOf) DecideEgress(_ context.Context, _ execution.Job, r execution.EgressRequest) execution.Decision {
	return p(r)
}

func TestPolicyIsAskedForEachRequest(t *testing.T) {
	var seen []execution.EgressRequest
	s := newSandbox(t, Config{Decider: policyOf(func(r execution.EgressRequest) execution.Decision {
		seen = append(seen, r)
		switch r.Path {
		case "/open":
			return execution.Decision{Effect: execution.EffectAllow}
		case "/ask":
			return execution.Decision{Effect: execution.EffectRequireApproval}
		case "/zero":
			return execution.Decision{}
		}
		return execution.Deny("", execution.Reason{Code: "too_secret", Rule: "r7", Message: "It is secret.", Remediation: "Ask for less."})
	})}, nil)
	c := s.client(false)
	for _, tt := range []struct{ path, code string }{{"/open", ""}, {"/ask", codeDecisionDenied}, {"/zero", codeDecisionDenied}, {"/x", "too_secret"}} {
		res, body := s.do(c, request(t, "PUT", s.url(tt.path), "hello"))
		if tt.code == "" {
			continue
		}
		p := problemIn(t, res, body)
		if p.Code != tt.code || p.Status != 403 {
			t.Errorf("%s: %+v", tt.path, p)
		}
		if tt.code == "too_secret" && (p.Rule != "r7" || p.Detail != "execgate: It is secret. Ask for less.") {
			t.Errorf("in policy's words: %+v", p)
		}
	}
	s.broker.decider, s.job.Grant.Network.Decide = nil, execution.DecideRequest
	if res, body := s.do(s.client(false), request(t, "GET", s.url("/open"), "")); problemIn(t, res, body).Code != codeDecisionDenied {
		t.Errorf("nobody can be asked: %s", body)
	}
	if diff := cmp.Diff(execution.EgressRequest{Host: "api.test", Port: s.to.Port, Method: "PUT", Path: "/open", Bytes: 5}, seen[0]); diff != "" {
		t.Error(diff)
	}
	if len(s.requests()) != 1 {
		t.Errorf("%d requests were received", len(s.requests()))
	}
}

func TestNoRequestLeavesBeforeItsRecord(t *testing.T) {
	s := newSandbox(t, Config{Recorder: &memory{fail: func(execution.Record) error { return errors.New("disk full") }}}, nil)
	res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeUnrecorded || p.Status != 503 {
		t.Errorf("%+v", p)
	}
	if len(s.requests()) > 0 {
		t.Error("a request has left")
	}
}

func TestBudgetIsForRequests(t *testing.T) {
	for _, tt := range []struct {
		budget execution.NetworkBudget
		code   string
	}{
		{execution.NetworkBudget{Requests: 1, Bytes: 1 << 20, RequestsPerS: 9, Connections: 9}, codeRequestsSpent},
		{execution.NetworkBudget{Requests: 1 << 20, Bytes: 1 << 40, RequestsPerS: 1, Connections: 9}, codeRateExceeded}, // until two come within a second
		{execution.NetworkBudget{Requests: 9, Bytes: 600, RequestsPerS: 9, Connections: 9}, codeBytesSpent},
	} {
		s := newSandbox(t, Config{}, nil)
		s.job.Grant.Network.Budget = tt.budget
		c := s.client(false)
		for {
			res, err := c.Do(request(t, "GET", s.url("/"), ""))
			if err != nil {
				continue // an answer that the budget has cut
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode == 200 {
				continue
			}
			if p := problemIn(t, res, string(body)); p.Code != tt.code || p.Status != 429 || res.Header.Get("Retry-After") == "" {
				t.Errorf("%+v, want %s", p, tt.code)
			}
			break
		}
		if used := s.broker.End("exec_1"); used.Bytes > tt.budget.Bytes || used.Requests > tt.budget.Requests {
			t.Errorf("%+v is more than %+v", used, tt.budget)
		}
	}
}

func TestRedirectIsTheProgramsAffair(t *testing.T) {
	s := newSandbox(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `h3=":443"`)
		http.Redirect(w, r, "https://evil.test/", http.StatusFound)
	})
	res, _ := s.do(s.client(true), request(t, "GET", s.url("/"), ""))
	if res.StatusCode != 302 || res.Header.Get("Location") != "https://evil.test/" || res.Header.Get("Alt-Svc") != "" || len(s.requests()) != 1 {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestEndOfTheExecutionEndsItsRequests(t *testing.T) {
	begun := make(chan struct{})
	s := newSandbox(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	program, gateway := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.broker.Carry(ctx, &s.job, s.authority, s.to, gateway)
	}()
	c := tls.Client(program, s.trust("api.test"))
	write(t, c, "GET / HTTP/1.1\r\nHost: "+s.authorityOf()+"\r\n\r\n")
	<-begun
	cancel()
	readAll(t, program)
	carried{program, done}.wait(t)
	if diff := cmp.Diff([]string{"allow", "end " + codeCancelled}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestSlowProgramAndSlowDestination(t *testing.T) {
	lengthening(t, 100*time.Millisecond, func(t testing.TB, wait time.Duration) {
		s := newSandbox(t, Config{IdleTimeout: wait}, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done() // of a connection that the broker ends
		})
		res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
		if p := problemIn(t, res, body); p.Code != codeIdle || p.Status != 504 {
			t.Errorf("%+v", p)
		}
		text := s.raw("POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 100\r\n\r\nnever all of it")
		if !strings.Contains(text, codeIdle) {
			t.Errorf("answered: %s", text)
		}
	})
}

func TestUpstreamCertificateIsVerified(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.broker.roots = s.trust("").RootCAs // those of another authority
	res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeCertificate || p.Status != 502 {
		t.Errorf("%+v", p)
	}
	s = newSandbox(t, Config{}, nil)
	s.rule().Host, s.to.Host = "other.test", "other.test" // for which it has no certificate
	res, body = s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeCertificate {
		t.Errorf("%+v", p)
	}
	s = newSandbox(t, Config{}, nil)
	s.upstream.TLS.MinVersion, s.upstream.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 // which it would speak
	s.upstream.TLS.NextProtos = []string{"http/1.1"}                                          // with HTTP/2 it would not
	res, body = s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeUpstream || p.Status != 502 {
		t.Errorf("%+v", p)
	}
	s = newSandbox(t, Config{}, nil)
	issuer, err := s.broker.Authority()
	if err != nil {
		t.Fatal(err)
	}
	key := issuer.PrivateKey.(*ecdsa.PrivateKey)
	for name, want := range map[string]struct {
		end  time.Time
		code string
	}{"in time": {time.Now().Add(time.Hour), ""}, "past its end": {time.Now().Add(-time.Minute), codeCertificate}} {
		leaf, err := certify(&x509.Certificate{DNSNames: []string{"api.test"}, NotBefore: issuer.Leaf.NotBefore, NotAfter: want.end}, issuer.Leaf, key, key)
		if err != nil {
			t.Fatal(err)
		}
		s.upstream.TLS.Certificates, s.broker.roots = []tls.Certificate{*leaf}, x509.NewCertPool()
		s.broker.roots.AddCert(issuer.Leaf)
		res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
		if want.code != "" && problemIn(t, res, body).Code != want.code || want.code == "" && res.StatusCode != 200 {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
}

func TestAddressesAreTriedInTurnForARequest(t *testing.T) {
	closed := netip.MustParseAddr("127.0.0.2") // nobody listens there
	s := newSandbox(t, Config{Resolver: addresses{closed, loopback[0]}}, nil)
	c := s.client(true) // which makes no second connection: one of HTTP/1 may, on a busy machine
	for range 2 {       // the second one begins with the address that has answered
		if res, _ := s.do(c, request(t, "POST", s.url("/"), "hello")); res.StatusCode != 200 {
			t.Errorf("answered: %s", res.Status)
		}
	}
	if diff := cmp.Diff([]string{"allow", "end dial_failed", "allow", "end ", "allow", "end "}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
	if got := s.requests(); len(got) != 2 || got[0].Body != "hello" {
		t.Errorf("received: %+v", got)
	}
	s = newSandbox(t, Config{Resolver: addresses{closed}}, nil)
	res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if p := problemIn(t, res, body); p.Code != codeDialFailed || p.Status != 502 {
		t.Errorf("%+v", p)
	}
	if got := s.broker.Stats().Requests; got[RequestOutcome{Outcome{execution.EffectAllow, codeDialFailed}, ""}] != 1 {
		t.Errorf("counted: %v", got)
	}
}

func TestAddressIsCheckedForARequest(t *testing.T) {
	for _, addr := range []string{"10.0.0.5", "169.254.169.254", "::ffff:10.0.0.5"} {
		s := newSandbox(t, Config{Resolver: addresses{loopback[0], netip.MustParseAddr(addr)}}, nil)
		res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
		if p := problemIn(t, res, body); p.Code != codeAddressRefused || p.Status != 403 {
			t.Errorf("%s: %+v", addr, p)
		}
		if len(s.requests()) > 0 {
			t.Errorf("%s: a request has left", addr)
		}
	}
}

// What one rule may connect to, another for the same host may not, over one connection
// of the program too.
func TestPrivateIsOfTheRuleThatOpensARequest(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	rule := *s.rule()
	rule.Paths, rule.Private = []string{"/public/*"}, false
	s.rule().Paths = []string{"/private/*"}
	s.job.Grant.Network.Rules = append(s.job.Grant.Network.Rules, rule)
	c := s.client(true)
	for range 2 {
		if res, body := s.do(c, request(t, "GET", s.url("/private/x"), "")); res.StatusCode != 200 {
			t.Errorf("answered: %s %s", res.Status, body)
		}
		res, body := s.do(c, request(t, "GET", s.url("/public/x"), ""))
		if p := problemIn(t, res, body); p.Code != codeAddressRefused {
			t.Errorf("%+v", p)
		}
	}
	if got := len(s.requests()); got != 2 {
		t.Errorf("%d requests were received", got)
	}
}

// An intercepted connection that waits costs its TLS, its buffers and its
// bookkeeping, the destination's and the program's ends of this test included.
func TestIdleInterceptedConnectionIsSmall(t *testing.T) {
	const connections, most = 50, 256 << 10
	s := newSandbox(t, Config{}, nil)
	clients := make([]*http.Client, connections)
	before := inUse()
	for i := range clients {
		clients[i] = s.client(false)
		s.do(clients[i], request(t, "GET", s.url("/"), ""))
	}
	settled(t, before, connections, most)
}
