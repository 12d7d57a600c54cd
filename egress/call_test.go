package egress

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/execgate/execgate/execution"
)

// calling is a sandbox whose job is a request to its destination, and no program.
func calling(t testing.TB, c Config, handle http.HandlerFunc) *sandbox {
	s := newSandbox(t, c, handle)
	s.job.Tool, s.job.Call = "api", &execution.HTTPCall{Method: "GET", To: s.to, Target: "/v1/items/a%20b?q=1"}
	s.job.Grant.Limits = execution.Limits{TimeoutMS: patience.Milliseconds(), OutputKiB: 64}
	return s
}

// refusedIn reads the problem that a call came to.
func refusedIn(t testing.TB, r execution.Result) (p problem) {
	t.Helper()
	if r.Outcome != execution.OutcomeExited || r.Status != 0 || r.ExitCode != nil {
		t.Errorf("%+v", r)
	}
	if err := json.Unmarshal(r.Stdout, &p); err != nil {
		t.Fatalf("%s: %v", r.Stdout, err)
	}
	return p
}

// A call goes the way of a program's request: with the key that it is bound to, which
// does not come back, and the same records.
func TestCallIsCarriedAndRecorded(t *testing.T) {
	for method, body := range map[string]string{"GET": "", "POST": `{"a":1}`} {
		s := calling(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
		s.bind("api", execution.Binding{Mode: "bearer", Paths: []string{"/v1/*"}})
		s.job.Call.Method = method
		if body != "" {
			s.job.Call.Body = []byte(body)
		}
		var begun []execution.Start
		s.job.Started = func(start execution.Start) {
			if begun = append(begun, start); len(s.log.all()) > 0 {
				t.Error("the beginning is told after what came of it")
			}
		}
		r := s.broker.Call(t.Context(), s.job)
		if !slices.Equal(begun, []execution.Start{execution.StartCall}) {
			t.Errorf("told of the beginnings %q", begun)
		}
		if r.Outcome != execution.OutcomeExited || r.Status != 200 || r.ExitCode != nil || r.Truncated.Stdout || strings.Contains(string(r.Stdout), "Xk8/pQ") || !strings.Contains(string(r.Stdout), "[redacted]") {
			t.Errorf("%+v: %s", r, r.Stdout)
		}
		got := s.requests()[0]
		if got.Method != method || got.URI != "/v1/items/a%20b?q=1" || got.Host != s.authorityOf() || got.Body != body || got.Header.Get("Authorization") != "Bearer "+secret ||
			got.Header.Get("Accept-Encoding") != "identity" || (got.Header.Get("Content-Type") == "application/json") != (body != "") {
			t.Errorf("received %+v", got)
		}
		who := asker()
		want := []execution.Record{
			{Seq: 0, Type: execution.RecordEgressDecided, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressDecided: &execution.EgressDecided{
				Host: "api.test", Port: s.to.Port, Mode: execution.NetworkIntercept, Effect: execution.EffectAllow,
				Address: s.upstream.Listener.Addr().String(), Method: method, Path: "/v1/items/a%20b", Rule: "api.test", Binding: "api",
			}},
			{Seq: 1, Type: execution.RecordEgressEnded, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressEnded: &execution.EgressEnded{
				DecidedSeq: 0, Status: 200, BytesOut: int64(len(body)),
			}},
		}
		ignore := []cmp.Option{cmpopts.IgnoreFields(execution.Record{}, "Time"), cmpopts.IgnoreFields(execution.EgressEnded{}, "WallMS", "BytesIn")}
		if diff := cmp.Diff(want, s.log.all(), ignore...); diff != "" {
			t.Error(diff)
		}
		if used := s.broker.End(s.job.ID); used.Requests != 1 || used.Bytes < int64(len(r.Stdout)) {
			t.Errorf("used %+v", used)
		}
	}
}

// Whatever the gateway escapes in a path, and in a query, is forwarded as it is.
func TestTargetOfACallIsForwarded(t *testing.T) {
	target := "/"
	for c := byte(' '); c < 0x7f; c++ {
		if strings.IndexByte(`/;\%`+unreserved, c) < 0 {
			target += fmt.Sprintf("%%%02X", c)
		}
	}
	target += "%C3%A9%F0%9F%98%80"
	target += "?q=" + target[1:] + "%0D%0A%2F%25%3B"
	s := calling(t, Config{}, nil)
	s.job.Call.Target = target
	if r := s.broker.Call(t.Context(), s.job); r.Status != 200 || s.requests()[0].URI != target {
		t.Errorf("%s", r.Stdout)
	}
}

// What a program would be refused, a call is too: in the same words, and nothing leaves.
func TestCallsThatAreRefused(t *testing.T) {
	store := &lender{err: errors.New("sealed")}
	for name, tt := range map[string]struct {
		change func(*sandbox)
		code   string
		leaves bool // the decision is to allow
	}{
		"no rule":            {func(s *sandbox) { s.job.Grant.Network.Rules = nil }, codeNotGranted, false},
		"another host":       {func(s *sandbox) { s.job.Call.To.Host = "evil.test" }, codeNotGranted, false},
		"another port":       {func(s *sandbox) { s.job.Call.To.Port = 1 }, codeNotGranted, false},
		"an address":         {func(s *sandbox) { s.job.Call.To.Host = "127.0.0.1" }, codeHostIsAddress, false},
		"no host":            {func(s *sandbox) { s.job.Call.To.Host = "a..b" }, codeHostInvalid, false},
		"a user in the host": {func(s *sandbox) { s.job.Call.To.Host = "api.test@evil.test" }, codeHostInvalid, false},
		"another method":     {func(s *sandbox) { s.rule().Methods = []string{"POST"} }, codeMethodNotOpen, false},
		"another path":       {func(s *sandbox) { s.rule().Paths = []string{"/v2/*"} }, codePathNotOpen, false},
		"a rule for bytes":   {func(s *sandbox) { s.rule().Mode = execution.NetworkForward }, codeUnsupported, false},
		"a rule for TLS":     {func(s *sandbox) { s.rule().Mode = execution.NetworkTunnel }, codeUnsupported, false},
		"the tools":          {func(s *sandbox) { s.job.Call.To.Host = "Tools.Execgate."; s.rule().Host = execution.ToolsHost }, codeUnsupported, false},
		"a private address":  {func(s *sandbox) { s.rule().Private = false }, codeAddressRefused, false},
		"no budget":          {func(s *sandbox) { s.job.Grant.Network.Budget.Requests = 0 }, codeBudgetInvalid, false},
		"a path that climbs": {func(s *sandbox) { s.job.Call.Target = "/v1/%2e%2e/admin" }, codePathAmbiguous, false},
		"a segment too many": {func(s *sandbox) { s.job.Call.Target = "/v1/a%2Fb" }, codePathAmbiguous, false},
		"a line in it":       {func(s *sandbox) { s.job.Call.Target = "/v1/a\r\nHost: evil" }, codePathInvalid, false},
		"another server":     {func(s *sandbox) { s.job.Call.Target = "//evil.test/" }, codePathAmbiguous, false},
		"a method of nobody": {func(s *sandbox) { s.job.Call.Method = "TRACE" }, codeMethodRefused, false},
		"two keys": {func(s *sandbox) {
			s.bind("a", execution.Binding{Mode: "bearer"})
			s.bind("b", execution.Binding{Mode: "bearer"})
		}, codeAmbiguous, false},
		"a key that is gone": {func(s *sandbox) { s.bind("a", execution.Binding{Mode: "bearer"}) }, codeNoCredential, true},
		"nobody there":       {func(s *sandbox) { s.broker.resolver = addresses{netip.MustParseAddr("127.0.0.9")} }, codeDialFailed, true},
		"nothing to spend":   {func(s *sandbox) { s.job.Grant.Network.Budget.Bytes = 10 }, codeBytesSpent, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := calling(t, Config{Credentials: store}, nil)
			tt.change(s)
			if p := refusedIn(t, s.broker.Call(t.Context(), s.job)); p.Code != tt.code || p.Detail == "" {
				t.Errorf("%+v", p)
			}
			if n := len(s.requests()); n != 0 {
				t.Errorf("%d requests have left", n)
			}
			want := []string{"deny " + tt.code}
			if tt.leaves {
				want = []string{"allow", "end " + tt.code}
			}
			if diff := cmp.Diff(want, s.log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
	s := calling(t, Config{}, nil)
	s.log.fail = func(execution.Record) error { return errors.New("disk full") }
	if p := refusedIn(t, s.broker.Call(t.Context(), s.job)); p.Code != codeUnrecorded || len(s.requests()) != 0 {
		t.Errorf("%+v", p)
	}
}

// Policy is asked for a call where it wants to be.
func TestPolicyIsAskedForCalls(t *testing.T) {
	s := calling(t, Config{Decider: policyOf(func(r execution.EgressRequest) execution.Decision {
		if r.Path != "/v1/items/a%20b" || r.Method != "POST" || r.Bytes != 2 {
			t.Errorf("asked for %+v", r)
		}
		return execution.Deny("", execution.Reason{Code: "no_writing", Message: "Nobody writes there."})
	})}, nil)
	s.job.Call.Method, s.job.Call.Body = "POST", []byte("{}")
	if p := refusedIn(t, s.broker.Call(t.Context(), s.job)); p.Code != "no_writing" || !strings.Contains(p.Detail, "Nobody writes there.") {
		t.Errorf("%+v", p)
	}
}

func TestRedirectOfACallIsNotFollowed(t *testing.T) {
	s := calling(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.test/steal", http.StatusFound)
	})
	if r := s.broker.Call(t.Context(), s.job); r.Status != 302 || len(s.requests()) != 1 {
		t.Errorf("%+v, %d requests", r, len(s.requests()))
	}
}

// No more than output_kib of an answer is kept, however it comes, and nothing more is
// read.
func TestAnswerOfACallIsBounded(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"large": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 10<<20)) },
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := calling(t, Config{}, handle)
			s.job.Grant.Limits.OutputKiB = 3
			r := s.broker.Call(t.Context(), s.job)
			if r.Outcome != execution.OutcomeOutputLimit || !r.Truncated.Stdout || len(r.Stdout) != 3<<10 || !cmp.Equal(r.Usage.LimitsHit, []string{"output_kib"}) {
				t.Errorf("%+v, %d bytes", r.Outcome, len(r.Stdout))
			}
			if diff := cmp.Diff([]string{"allow", "end output_limit"}, s.log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
	exact := calling(t, Config{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 3<<10)) })
	exact.job.Grant.Limits.OutputKiB = 3
	if r := exact.broker.Call(t.Context(), exact.job); r.Outcome != execution.OutcomeExited || r.Truncated.Stdout || len(r.Stdout) != 3<<10 {
		t.Errorf("%+v", r)
	}
}

// A destination that is slow is waited for as long as is granted, and no longer than the
// caller does.
func TestCallEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		timeoutMS int64
		answer    string // begun before nothing more comes
		outcome   execution.Outcome
	}{
		"by its timeout, before it is answered": {300, "", execution.OutcomeTimedOut},
		"by its timeout, amid its answer":       {300, "begun", execution.OutcomeTimedOut},
		"by its caller":                         {patience.Milliseconds(), "", execution.OutcomeCancelled},
		"without a timeout":                     {0, "", execution.OutcomeTimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := calling(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
				if tt.answer != "" {
					_, _ = io.WriteString(w, tt.answer)
					_ = http.NewResponseController(w).Flush()
				}
				if tt.outcome == execution.OutcomeCancelled {
					cancel()
				}
				<-r.Context().Done()
			})
			s.job.Grant.Limits.TimeoutMS = tt.timeoutMS
			r := s.broker.Call(ctx, s.job)
			if r.Outcome != tt.outcome || !strings.HasPrefix(tt.answer, string(r.Stdout)) {
				t.Errorf("%+v: %s", r, r.Stdout)
			}
			for _, code := range s.log.codes() {
				if code != "allow" && code != "end cancelled" && code != "deny cancelled" {
					t.Errorf("recorded %s", code)
				}
			}
		})
	}
}

// After its end nothing is begun for an execution.
func TestCallAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := calling(t, Config{}, nil)
	s.job.Started = func(execution.Start) { t.Error("it is told to have begun") }
	if r := s.broker.Call(ctx, s.job); r.Outcome != execution.OutcomeCancelled || len(s.log.all()) != 0 || s.broker.Stats().Executions != 0 {
		t.Errorf("%+v, recorded %v", r, s.log.codes())
	}
}

// An answer that breaks off is not shown as if it were whole.
func TestAnswerOfACallThatBreaksOff(t *testing.T) {
	s := calling(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	})
	if p := refusedIn(t, s.broker.Call(t.Context(), s.job)); p.Code != codeBroken {
		t.Errorf("%+v", p)
	}
}

// A key that comes back is taken out across the pieces in which it does.
func TestReflectionToACallIsScrubbed(t *testing.T) {
	s := calling(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, func(w http.ResponseWriter, _ *http.Request) {
		for i := range len(secret) {
			_, _ = io.WriteString(w, secret[i:i+1])
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = fmt.Fprintf(w, " %q", secret)
	})
	s.bind("api", execution.Binding{Mode: "bearer"})
	if r := s.broker.Call(t.Context(), s.job); strings.Contains(string(r.Stdout), "pQ+ab") || strings.Count(string(r.Stdout), "[redacted]") != 2 {
		t.Errorf("%s", r.Stdout)
	}
}

// What cannot be searched is withheld, also where no binding asks for that: nobody could
// read it but who wants the key in it.
func TestCompressedAnswerToACallIsWithheld(t *testing.T) {
	s := calling(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, r.Header.Get("Authorization"))
		_ = z.Close()
	})
	s.bind("api", execution.Binding{Mode: "bearer"})
	if p := refusedIn(t, s.broker.Call(t.Context(), s.job)); p.Code != codeUnscrubbable {
		t.Errorf("%+v", p)
	}
}

// A name that answers anew is tried at each of its addresses, each with its record.
func TestCallTriesAddresses(t *testing.T) {
	s := calling(t, Config{Resolver: addresses{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.1")}}, nil)
	if r := s.broker.Call(t.Context(), s.job); r.Status != 200 {
		t.Errorf("%+v: %s", r, r.Stdout)
	}
	if diff := cmp.Diff([]string{"allow", "end " + codeDialFailed, "allow", "end "}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
	if wall := s.log.all()[3].EgressEnded.WallMS; wall > patience.Milliseconds() {
		t.Errorf("it took %d ms", wall)
	}
}

// A call leaves no connection where it ends before its answer does. One that was answered
// may be used again, until the broker closes.
func TestCallLeavesNoConnection(t *testing.T) {
	for name, answer := range map[string]string{"ended before its answer": "", "ended amid its answer": "begun", "answered": "whole"} {
		t.Run(name, func(t *testing.T) {
			var end context.CancelFunc
			s := calling(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
				if _, _ = io.WriteString(w, answer); answer == "whole" {
					return
				}
				if answer != "" {
					_ = http.NewResponseController(w).Flush()
				}
				end()
				<-r.Context().Done()
			})
			for range 20 {
				var ctx context.Context
				ctx, end = context.WithCancel(t.Context())
				s.broker.Call(ctx, s.job)
				end()
			}
			if n := s.broker.Stats().Kept; n != 0 && answer != "whole" {
				t.Errorf("%d connections are kept", n)
			}
			s.broker.Close()
			s.noneOpen()
		})
	}
}
