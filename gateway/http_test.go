package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// site is a gateway that serves on a loopback port.
type site struct {
	*world
	t       testing.TB
	service *gateway.Service
	gateway *gateway.Gateway
	address string
	log     *lockedBuffer
	// stop ends Serve and returns what it returned. It may be called again.
	stop func() error
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func serve(t testing.TB, w *world, change func(*gateway.Config)) *site {
	t.Helper()
	s := &site{world: w, t: t, log: &lockedBuffer{}, service: w.service(t)}
	config := gateway.Config{
		Service: s.service, Authenticator: doorman{}, Keys: &ring{w: w}, Recorder: w,
		Logger: slog.New(slog.NewJSONHandler(s.log, nil)), DrainTimeout: 10 * time.Second,
	}
	if change != nil {
		change(&config)
	}
	var err error
	if s.gateway, err = gateway.New(config); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.gateway.Serve(ctx, listener) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-served })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	return s
}

// answer is a response, read whole.
type answer struct {
	*http.Response
	body string
}

func (a answer) problem(t testing.TB) (p struct {
	Type, Title, Detail, Instance, Code, Execution string
	Status                                         int
	Reasons                                        []execution.Reason
	Errors                                         []execution.FieldError
	RetryAfterMS                                   int64 `json:"retry_after_ms"`
	Checks                                         []struct {
		Name, Detail string
		Ready        bool
	}
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%q: %v", a.body, err)
	}
	if a.Header.Get("Content-Type") != "application/problem+json" || p.Status != a.StatusCode || p.Title == "" ||
		!strings.HasPrefix(p.Type, "https://execgate.dev/problems/") || p.Instance != a.Header.Get("X-Request-Id") {
		t.Errorf("it is not a whole problem: %v %s", a.Header, a.body)
	}
	return p
}

func (s *site) do(method, path, token, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := response.Header.Get(name); got != want {
			s.t.Errorf("%s %s: %s is %q", method, path, name, got)
		}
	}
	if response.Header.Get("X-Request-Id") == "" {
		s.t.Errorf("%s %s: no X-Request-Id", method, path)
	}
	return answer{response, string(text)}
}

const (
	callerToken = "caller/acme"
	program     = `{"language":"python","code":"print(1)"}`
)

func TestExecutionOverHTTP(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		d := allow("github")
		d.Clamped = []execution.Clamp{{Limit: "memory_mib", Requested: 4096, Granted: 512}}
		return d
	}
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		r := exited(0)
		r.Stdout = []byte("caf\xc3\xa9 \xff<b>")
		r.Value = json.RawMessage(`6`)
		r.Artifacts = []execution.Artifact{{Path: "a.bin", MediaType: "application/octet-stream", Size: 2, Content: []byte{0, 255}}}
		return r, nil
	}
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/executions", callerToken, program, "X-Request-Id", "mine-1",
		"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Prefer", "wait=10")
	var got map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	id, _ := got["id"].(string)
	want := `{"id":"` + id + `","outcome":"exited","exit_code":0,"stdout":"café �\u003cb\u003e","stderr":"","result":6,` +
		`"truncated":{"stdout":false,"stderr":false},` +
		`"artifacts":[{"path":"a.bin","media_type":"application/octet-stream","size":2,"content":"AP8="}],` +
		`"usage":{"wall_ms":0,"cpu_ms":0,"peak_memory_mib":0,"peak_processes":0,"output_bytes":0,"warm":false,"limits_hit":[],"egress_requests":0,"egress_bytes":0},` +
		`"decision":{"effect":"allow","revision":"sha256:rev","reasons":[],"clamped":[{"limit":"memory_mib","requested":4096,"granted":512}]},` +
		`"leases":[{"tool":"github","id":"l1","expires":"0001-01-01T00:00:00Z","revoked":true}],"records":[0,1]}`
	if a.body != want {
		t.Errorf("body\n%s\nwant\n%s", a.body, want)
	}
	if a.Header.Get("X-Request-Id") != "mine-1" || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", a.Header)
	}
	if r := w.recorded()[0]; r.TraceID != "4bf92f3577b34da6a3ce929d0e0e4736" || r.RequestID != "mine-1" || r.Principal.Tenant != "acme" {
		t.Errorf("record %+v", r)
	}
}

func TestEmptyResultHasNoNullArray(t *testing.T) {
	w := newWorld()
	code := 3
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		return execution.Result{Outcome: execution.OutcomeTimedOut, ExitCode: &code, Value: json.RawMessage(`{not json`)}, nil
	}
	a := serve(t, w, nil).do("POST", "/v1/executions", callerToken, program)
	for _, want := range []string{
		`"exit_code":null`, `"result":null`, `"result_error":"the result is not JSON"`, `"artifacts":[]`, `"limits_hit":[]`,
		`"reasons":[]`, `"clamped":[]`, `"leases":[]`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %s in %d %s", want, a.StatusCode, a.body)
		}
	}
}

func TestProblems(t *testing.T) {
	const internals = "dial unix /var/run/docker.sock"
	fail := func(e *execution.Error) func(*world) {
		return func(w *world) {
			w.image = func(string, string) (execution.Image, error) { return execution.Image{}, e }
		}
	}
	tests := []struct {
		name, body string
		headers    []string
		arrange    func(*world)
		status     int
		want       []string // parts of the body
	}{
		{name: "invalid", body: `{"language":"python","code":1,"x":2}`, status: 400, want: []string{`"pointer":"/code"`, `"pointer":"/x"`}},
		{name: "idempotency key", body: program, headers: []string{"Idempotency-Key", "a b"}, status: 400, want: []string{"idempotency_key_invalid"}},
		{name: "media type", body: program, headers: []string{"Content-Type", "text/plain"}, status: 415},
		{name: "compressed", body: program, headers: []string{"Content-Encoding", "gzip"}, status: 415},
		{name: "accept", body: program, headers: []string{"Accept", "text/html"}, status: 406},
		{name: "no body", body: "", headers: []string{"Content-Type", "application/json"}, status: 400},
		{name: "denied", body: program, arrange: func(w *world) {
			w.decide = func(execution.Question) execution.Decision {
				return execution.Deny("r", execution.Reason{Code: "image_not_granted", Message: "no", Rule: "images", Remediation: "ask"})
			}
		}, status: 403, want: []string{`"reasons":[{"code":"image_not_granted","message":"no","rule":"images","remediation":"ask"}]`, `"execution":"ex_`}},
		{name: "unknown image", body: program, arrange: fail(&execution.Error{Kind: execution.KindNotFound, Detail: "the images are: python"}), status: 404, want: []string{"the images are: python"}},
		{name: "engine down", body: program, arrange: fail(&execution.Error{Kind: execution.KindUnavailable, RetryAfter: 1500 * time.Millisecond, Err: io.EOF}), status: 503, want: []string{`"retry_after_ms":1500`, "engine_unavailable"}},
		{name: "log down", body: program, arrange: func(w *world) {
			w.append = func(context.Context, execution.Record) error { return &net.OpError{Op: internals} }
		}, status: 503, want: []string{"audit_unavailable", "retry_after_ms"}},
		{name: "executor fails", body: program, arrange: func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				return execution.Result{}, &execution.Error{Kind: execution.KindInternal, Code: "secret_code", Detail: internals, Err: io.EOF}
			}
		}, status: 500},
		{name: "panic", body: program, arrange: func(w *world) {
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { panic(internals) }
		}, status: 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			if test.arrange != nil {
				test.arrange(w)
			}
			s := serve(t, w, nil)
			a := s.do("POST", "/v1/executions", callerToken, test.body, test.headers...)
			p := a.problem(t)
			if a.StatusCode != test.status {
				t.Errorf("status %d, want %d: %s", a.StatusCode, test.status, a.body)
			}
			for _, want := range test.want {
				if !strings.Contains(a.body, want) {
					t.Errorf("no %s in %s", want, a.body)
				}
			}
			if strings.Contains(a.body, "docker.sock") || strings.Contains(a.body, "EOF") {
				t.Errorf("internals show: %s", a.body)
			}
			if a.StatusCode == 500 && (p.Detail != "" || p.Code != "") {
				t.Errorf("a 500 with detail: %s", a.body)
			}
			if (a.StatusCode == 503) != (a.Header.Get("Retry-After") != "") {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
			if a.StatusCode < 500 && a.StatusCode != 403 && a.StatusCode != 404 && w.history() != "" {
				t.Errorf("something ran: %s", w.history())
			}
		})
	}
}

func TestWrongRoutesAndMethods(t *testing.T) {
	s := serve(t, newWorld(), nil)
	for _, path := range []string{"/", "/v1", "/v1/executions/", "/V1/executions", "/v1//executions", "/v1/executions/../keys", "/%2e%2e/x", "/v1/executions%00", "/metrics/"} {
		if a := s.do("GET", path, "admin/default", ""); a.StatusCode != 404 && a.StatusCode != 405 {
			t.Errorf("GET %s: %d", path, a.StatusCode)
		} else {
			a.problem(t)
		}
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "PROPFIND"} {
		a := s.do(method, "/v1/executions", callerToken, "")
		if a.StatusCode != 405 || a.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %d, Allow %q", method, a.StatusCode, a.Header.Get("Allow"))
		}
	}
	// A header that asks for another method is not heard.
	if a := s.do("GET", "/v1/keys/x", "admin/default", "", "X-HTTP-Method-Override", "DELETE"); a.StatusCode != 405 {
		t.Errorf("method override: %d", a.StatusCode)
	}
}

// Invariant 6: a Principal never comes from a body, nor from any header but
// Authorization.
func TestPrincipalComesFromTheCredentialOnly(t *testing.T) {
	w := newWorld()
	var asked []execution.Principal
	w.decide = func(q execution.Question) execution.Decision { asked = append(asked, q.Principal); return allow() }
	s := serve(t, w, nil)
	for _, field := range []string{"principal", "tenant", "subject", "roles", "method", "Principal"} {
		a := s.do("POST", "/v1/executions", callerToken, `{"language":"python","code":"1","`+field+`":"admin"}`)
		if a.StatusCode != 400 || len(asked) != 0 {
			t.Errorf("a body with %s: %d", field, a.StatusCode)
		}
	}
	a := s.do("POST", "/v1/executions?tenant=other&access_token=admin/default", callerToken,
		`{"language":"python","code":"1","metadata":{"tenant":"other","subject":"root","roles":"admin"}}`,
		"X-Tenant", "other", "X-Forwarded-User", "root", "X-Forwarded-For", "127.0.0.1", "Cookie", "token=admin/default", "X-Api-Key", "admin/default")
	if a.StatusCode != 200 || len(asked) != 1 || asked[0].Tenant != "acme" || asked[0].Subject != "ak_caller" || asked[0].Has(execution.RoleAdmin) {
		t.Errorf("%d, principal %+v", a.StatusCode, asked)
	}
	for _, r := range w.recorded() {
		if r.Principal.Tenant != "acme" || r.Principal.Subject != "ak_caller" {
			t.Errorf("record of %+v", r.Principal)
		}
	}
}

// One line for each request, without bodies or credentials.
func TestLogLine(t *testing.T) {
	s := serve(t, newWorld(), nil)
	s.do("POST", "/v1/executions?q=queryquery", callerToken, `{"language":"python","code":"codecode","stdin":"stdinstdin","env":{"MODE":"valuevalue"}}`)
	s.do("POST", "/v1/executions", "wrong/tokentoken", program)
	s.do("GET", "/pathpath", "", "")
	s.stop()
	text := s.log.String()
	if n := strings.Count(text, `"msg":"request"`); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, text)
	}
	for _, hidden := range []string{"codecode", "stdinstdin", "valuevalue", "tokentoken", callerToken, "queryquery", "pathpath"} {
		if strings.Contains(text, hidden) {
			t.Errorf("%s stands in the log:\n%s", hidden, text)
		}
	}
	for _, shown := range []string{`"request_id":"rq_`, `"route":"/v1/executions"`, `"status":200`, `"subject":"ak_caller"`, `"tenant":"acme"`, `"execution":"ex_`, `"remote":"127.0.0.1"`, `"duration_ms":`, `"kind":"unauthenticated"`} {
		if !strings.Contains(text, shown) {
			t.Errorf("no %s in the log:\n%s", shown, text)
		}
	}
}

func TestNewRefusesTheUnsafe(t *testing.T) {
	w := newWorld()
	for name, change := range map[string]func(*gateway.Config){
		"service":       func(c *gateway.Config) { c.Service = nil },
		"authenticator": func(c *gateway.Config) { c.Authenticator = nil },
		"keys":          func(c *gateway.Config) { c.Keys = nil },
		"recorder":      func(c *gateway.Config) { c.Recorder = nil },
		"logger":        func(c *gateway.Config) { c.Logger = nil },
		"prober":        func(c *gateway.Config) { c.Probers = map[string]gateway.Prober{"gateway": c.Service} },
		"negative":      func(c *gateway.Config) { c.IdleTimeout = -1 },
	} {
		config := gateway.Config{Service: w.service(t), Authenticator: doorman{}, Keys: &ring{w: w}, Recorder: w, Logger: slog.New(slog.DiscardHandler)}
		change(&config)
		if _, err := gateway.New(config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func BenchmarkHTTP(b *testing.B) {
	w := newWorld()
	s := serve(b, w, nil)
	for b.Loop() {
		if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 200 {
			b.Fatal(a.body)
		}
		w.mu.Lock()
		w.events, w.records = w.events[:0], w.records[:0]
		w.mu.Unlock()
	}
}
