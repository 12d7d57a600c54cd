package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/execgate/execgate/execution"
)

// toolbox is the gateway's tools.
type toolbox struct {
	answer func(ctx context.Context, name string) (int, string) // nil: 200 and what was called

	mu    sync.Mutex
	calls []string
}

func (b *toolbox) CallToolFrom(ctx context.Context, job execution.Job, name string, arguments []byte) (int, []byte) {
	b.mu.Lock()
	b.calls = append(b.calls, fmt.Sprintf("%s %s %s", job.ID, name, arguments))
	b.mu.Unlock()
	if b.answer == nil {
		return 200, []byte(`{"called":"` + name + `"}`)
	}
	status, document := b.answer(ctx, name)
	return status, []byte(document)
}

func (b *toolbox) ListToolsFrom(_ context.Context, job execution.Job) (int, []byte) {
	return 200, []byte(`{"tools":[]}`)
}

func (b *toolbox) called() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.calls...)
}

// nowhere is asked for no name.
type nowhere struct{ t testing.TB }

func (n nowhere) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.t.Errorf("%s is looked up", host)
	return nil, errors.New("none")
}

// withTools is a sandbox whose programs may call tools.
func withTools(t testing.TB, tools *toolbox) *sandbox {
	s := newSandbox(t, Config{Tools: tools, Resolver: nowhere{t}}, nil)
	s.job.Grant.Network.Rules = []execution.NetworkRule{{Host: execution.ToolsHost, Ports: []int{80}, Mode: execution.NetworkIntercept}}
	return s
}

const toolsURL = "http://tools.execgate"

// A program calls tools at a name that is no host: what it sends is passed on and
// recorded like a request that leaves, and nothing is looked up or connected to.
func TestProgramCallsTools(t *testing.T) {
	tools := &toolbox{}
	s := withTools(t, tools)
	c := s.client(false)
	res, body := s.do(c, request(t, "POST", toolsURL+"/add-er", `{"a": 1}`))
	if res.StatusCode != 200 || body != `{"called":"add-er"}` || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s", res.Status, body)
	}
	if res, body := s.do(c, request(t, "GET", "http://TOOLS.execgate.:80/", "")); res.StatusCode != 200 || body != `{"tools":[]}` {
		t.Errorf("%s %s", res.Status, body)
	}
	if diff := cmp.Diff([]string{`exec_1 add-er {"a": 1}`}, tools.called()); diff != "" {
		t.Error(diff)
	}
	who := asker()
	want := []execution.Record{
		{Seq: 0, Type: execution.RecordEgressDecided, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressDecided: &execution.EgressDecided{
			Host: "tools.execgate", Port: 80, Mode: execution.NetworkIntercept, Effect: execution.EffectAllow, Method: "POST", Path: "/add-er", Rule: "tools.execgate",
		}},
		{Seq: 1, Type: execution.RecordEgressEnded, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressEnded: &execution.EgressEnded{
			DecidedSeq: 0, Status: 200, BytesOut: 8, BytesIn: 19,
		}},
	}
	ignore := []cmp.Option{cmpopts.IgnoreFields(execution.Record{}, "Time"), cmpopts.IgnoreFields(execution.EgressEnded{}, "WallMS")}
	if diff := cmp.Diff(want, s.log.all()[:2], ignore...); diff != "" {
		t.Error(diff)
	}
	if used := s.broker.account(t.Context(), &s.job).usage(); used.Requests != 2 || used.Bytes != 8+19+12 {
		t.Errorf("used %+v", used)
	}
}

// A refusal of the gateway is passed on as it is.
func TestToolsRefuse(t *testing.T) {
	for _, status := range []int{400, 403, 429, 503} {
		s := withTools(t, &toolbox{answer: func(context.Context, string) (int, string) { return status, `{"status":1}` }})
		res, body := s.do(s.client(false), request(t, "POST", toolsURL+"/adder", "{}"))
		if res.StatusCode != status || body != `{"status":1}` || res.Header.Get("Content-Type") != "application/problem+json" || (res.Header.Get("Retry-After") != "") != (status == 429 || status == 503) {
			t.Errorf("%s %v %s", res.Status, res.Header, body)
		}
		if end := s.log.all()[1].EgressEnded; end.Status != status || end.Error != "" {
			t.Errorf("recorded %+v", end)
		}
	}
}

// Each of these is refused in words, and no tool is called.
func TestToolsAreClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		change      func(*sandbox)
		method, url string
		host, body  string
		code        string
	}{
		"no rule":              {func(s *sandbox) { s.rule().Host = "api.test" }, "POST", "/adder", "", "{}", codeNotGranted},
		"a rule for another":   {func(s *sandbox) { s.rule().Paths = []string{"/other"} }, "POST", "/adder", "", "{}", codePathNotOpen},
		"a rule to list":       {func(s *sandbox) { s.rule().Methods = []string{"GET"} }, "POST", "/adder", "", "{}", codeMethodNotOpen},
		"a rule for TLS":       {func(s *sandbox) { s.rule().Mode = execution.NetworkTunnel }, "POST", "/adder", "", "{}", codeUnsupported},
		"another port":         {func(s *sandbox) { s.rule().Ports = []int{8080} }, "POST", ":8080/adder", "", "{}", codeUnsupported},
		"a tool that calls":    {func(s *sandbox) { s.job.Tool = "nested" }, "POST", "/adder", "", "{}", codeToolNested},
		"a gateway of none":    {func(s *sandbox) { s.broker.tools = nil }, "POST", "/adder", "", "{}", codeUnsupported},
		"another method":       {nil, "PUT", "/adder", "", "{}", codeToolRequest},
		"a tool that is read":  {nil, "GET", "/adder", "", "", codeToolRequest},
		"a call of no name":    {nil, "POST", "/", "", "{}", codeToolRequest},
		"a name below":         {nil, "POST", "/adder/calls", "", "{}", codeToolRequest},
		"a name that climbs":   {nil, "POST", "/x/%2e%2e/adder", "", "{}", codePathAmbiguous},
		"a slash in a name":    {nil, "POST", "/a%2Fb", "", "{}", codePathAmbiguous},
		"a query":              {nil, "POST", "/adder?a=1", "", "{}", codeToolRequest},
		"a body of 256 KiB":    {nil, "POST", "/adder", "", strings.Repeat("x", maxToolArguments+1), codeToolArguments},
		"another Host":         {nil, "POST", "/adder", "api.test", "{}", codeHostMismatch},
		"an upgrade":           {nil, "UPGRADE", "/adder", "", "", codeUpgradeRefused},
		"a budget that is out": {func(s *sandbox) { s.job.Grant.Network.Budget.Bytes = 1 }, "POST", "/adder", "", "{}", codeBytesSpent},
	} {
		t.Run(name, func(t *testing.T) {
			tools := &toolbox{}
			s := withTools(t, tools)
			if tt.change != nil {
				tt.change(s)
			}
			r := request(t, strings.Replace(tt.method, "UPGRADE", "GET", 1), toolsURL+tt.url, tt.body)
			if tt.method == "UPGRADE" {
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Upgrade", "h2c")
			}
			if tt.host != "" {
				r.Host = tt.host
			}
			res, body := s.do(s.client(false), r)
			if p := problemIn(t, res, body); p.Code != tt.code {
				t.Errorf("%+v", p)
			}
			if called := tools.called(); len(called) > 0 {
				t.Errorf("called %q", called)
			}
			if diff := cmp.Diff([]string{"deny " + tt.code}, s.log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The name is the tools' on a connection to them alone.
func TestToolsAreNoHostOfOthers(t *testing.T) {
	tools := &toolbox{}
	s := newSandbox(t, Config{Tools: tools}, nil)
	r := request(t, "POST", s.url("/adder"), "{}")
	r.Host = execution.ToolsHost
	res, body := s.do(s.client(false), r)
	if p := problemIn(t, res, body); p.Code != codeHostMismatch || len(tools.called()) > 0 || len(s.requests()) > 0 {
		t.Errorf("%+v", p)
	}
}

func TestToolsAreNotCalledUnrecorded(t *testing.T) {
	tools := &toolbox{}
	s := withTools(t, tools)
	s.log.fail = func(execution.Record) error { return errors.New("disk full") }
	res, body := s.do(s.client(false), request(t, "POST", toolsURL+"/adder", "{}"))
	if p := problemIn(t, res, body); p.Code != codeUnrecorded || len(tools.called()) > 0 {
		t.Errorf("%+v, called %q", p, tools.called())
	}
}

// What the program was lent does not come to it by a tool either.
func TestAnswersOfToolsAreScrubbed(t *testing.T) {
	s := withTools(t, &toolbox{answer: func(context.Context, string) (int, string) { return 200, fmt.Sprintf("{%q:1}", secret) }})
	if err := s.broker.account(t.Context(), &s.job).learn([]string{secret}); err != nil {
		t.Fatal(err)
	}
	if _, body := s.do(s.client(false), request(t, "POST", toolsURL+"/adder", "{}")); body != `{"[redacted]":1}` {
		t.Errorf("%s", body)
	}
}

// A call ends with the execution that made it, or with the connection.
func TestCallsOfToolsEnd(t *testing.T) {
	for _, by := range []string{codeCancelled, codeDisconnected} {
		t.Run(by, func(t *testing.T) {
			begun := make(chan struct{})
			s := withTools(t, &toolbox{answer: func(ctx context.Context, _ string) (int, string) {
				close(begun)
				<-ctx.Done()
				return 200, "{}"
			}})
			ctx, end := context.WithCancel(t.Context())
			defer end()
			program, gateway := pair(t)
			over := make(chan struct{})
			go func() {
				defer close(over)
				s.broker.Carry(ctx, &s.job, s.authority, execution.Destination{Host: execution.ToolsHost, Port: 80}, gateway)
			}()
			write(t, program, "POST /adder HTTP/1.1\r\nHost: tools.execgate\r\nContent-Length: 2\r\n\r\n{}")
			<-begun
			if by == codeCancelled {
				end()
			} else if err := program.Close(); err != nil {
				t.Fatal(err)
			}
			carried{program, over}.wait(t)
			if by == codeCancelled {
				if got, err := io.ReadAll(program); err == nil && strings.Contains(string(got), " 200 ") {
					t.Errorf("it was answered %q", got)
				}
			}
			if diff := cmp.Diff([]string{"allow", "end " + by}, s.log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A rule that carries bytes opens no tools, and whatever speaks no HTTP gets no byte.
func TestToolsSpeakHTTP(t *testing.T) {
	for code, mode := range map[string]execution.NetworkMode{codeNotTLS: execution.NetworkIntercept, codeUnsupported: execution.NetworkForward} {
		s := withTools(t, &toolbox{})
		s.rule().Mode = mode
		c := s.dial(execution.Destination{Host: execution.ToolsHost, Port: 80})
		write(t, c, "\x00\x01nothing")
		if got := readAll(t, c); got != "" {
			t.Errorf("%q", got)
		}
		s.carries.Wait()
		if diff := cmp.Diff([]string{"deny " + code}, s.log.codes()); diff != "" {
			t.Error(diff)
		}
	}
}

// What a tool has left behind with its credential is scrubbed where the program that
// called it finds it by itself.
func TestSecretThatAToolLeftBehindIsScrubbed(t *testing.T) {
	var stored string
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "" {
			stored = got
		}
		_, _ = io.WriteString(w, stored)
	})
	c := s.client(false)
	s.do(c, request(t, "GET", s.url("/"), "")) // the program is there before it calls
	tool := s.job
	tool.ID, tool.Parent, tool.Tool = "exec_2", s.job.ID, "report"
	tool.Grant.Limits = execution.Limits{TimeoutMS: patience.Milliseconds(), OutputKiB: 64}
	tool.Grant.Credentials = []execution.Credential{{
		Tool: "api", Inject: execution.InjectEgress, Bind: []execution.Binding{{Host: s.to.Host, Port: s.to.Port, Mode: "bearer"}},
	}}
	tool.Call = &execution.HTTPCall{Method: "GET", To: s.to, Target: "/"}
	if got := s.broker.Call(t.Context(), tool); string(got.Stdout) != "Bearer [redacted]" {
		t.Errorf("the tool's answer: %+v %s", got, got.Stdout)
	}
	s.broker.End(tool.ID)
	if _, body := s.do(c, request(t, "GET", s.url("/"), "")); body != "Bearer [redacted]" {
		t.Errorf("read back: %q", body)
	}
}

// The values of many calls do not make the search of the program's answers larger and
// larger.
func TestWhatIsOverheardIsBounded(t *testing.T) {
	a := newAccount(plenty)
	const each = 1 << 10
	for i := range 2 * maxOverheard / each {
		a.overhear([]string{fmt.Sprintf("credential-%0*d", each-len("credential-"), i)})
	}
	if n := len(a.values); n != maxOverheard/each {
		t.Errorf("%d values", n)
	}
}
