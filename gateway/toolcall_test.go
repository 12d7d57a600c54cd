package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

const adderSchema = `{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"],"additionalProperties":false}`

// withTools is a world whose registry has tools of each kind: two that run a program, one
// that makes a request, and one that has no call.
func withTools(t testing.TB) *world {
	t.Helper()
	w := newWorld()
	schema := json.RawMessage(adderSchema)
	var err error
	w.tools, err = gateway.NewTools([]execution.Tool{
		{
			Name: "adder", Description: "Adds.", Kind: execution.ToolContainer, Image: "python", Command: []string{"add", "--json"}, Arguments: schema,
			Limits:  execution.Limits{MemoryMiB: 64},
			Network: []execution.Destination{{Host: "db.internal", Port: 5432}},
			Credential: &execution.Credential{
				Engine: "kv2", Mount: "secret", Path: "adder", VaultPolicies: []string{"adder"}, Inject: execution.InjectFile, FilePath: "/tmp/key",
			},
		},
		{Name: "plain", Description: "Is plain.", Kind: execution.ToolContainer, Image: "python", Command: []string{"plain"}, Arguments: schema},
		{
			Name: "weather", Description: "Tells.", Kind: execution.ToolHTTP, Arguments: schema,
			Request: &execution.ToolRequest{Method: "GET", URL: "https://api.weather.example/v1/{a}"}, Network: []execution.Destination{{Host: "api.weather.example", Port: 443}},
			Limits: execution.Limits{TimeoutMS: 500},
			Credential: &execution.Credential{
				Engine: "kv2", Mount: "secret", Path: "weather", VaultPolicies: []string{"weather"}, Inject: execution.InjectEgress,
				Bind: []execution.Binding{{Host: "api.weather.example", Port: 443, Mode: "bearer"}},
			},
		},
		{
			Name: "database", Description: "Is used by code.", Kind: execution.ToolEgress, Network: []execution.Destination{{Host: "api.weather.example", Port: 443}},
			Credential: &execution.Credential{
				Engine: "kv2", Mount: "secret", Path: "weather", VaultPolicies: []string{"weather"}, Inject: execution.InjectEgress,
				Bind: []execution.Binding{{Host: "api.weather.example", Port: 443, Mode: "bearer"}},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

const fitting = `{"arguments": {"a": 1, "b": 2.50}, "metadata": {"agent": "bot"}}`

func calls(name string) string { return "/v1/tools/" + name + "/calls" }

// What runs is what the registry says; of the caller's it has the arguments on standard
// input, and policy and the record have them by the same digest.
func TestToolCall(t *testing.T) {
	w := withTools(t)
	var asked execution.Question
	var job execution.Job
	w.decide = func(q execution.Question) execution.Decision { asked = q; return allow("adder") }
	w.execute = func(_ context.Context, j execution.Job) (execution.Result, error) {
		job = j
		r := exited(0)
		r.Stdout = []byte(" {\"sum\": 3.5}\n")
		return r, nil
	}
	a := serve(t, w, nil).do("POST", calls("adder"), callerToken, fitting)
	var got struct {
		ID, Content, Outcome string
		Structured           json.RawMessage
		ExitCode             *int `json:"exit_code"`
		IsError              bool `json:"is_error"`
		Truncated            bool
		Decision             struct{ Effect, Revision string }
		Records              []uint64
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if got.Content != " {\"sum\": 3.5}\n" || string(got.Structured) != `{"sum":3.5}` || got.Outcome != "exited" || got.ExitCode == nil || *got.ExitCode != 0 ||
		got.IsError || got.Truncated || got.Decision.Effect != "allow" || !slices.Equal(got.Records, []uint64{0, 1}) || !strings.HasPrefix(got.ID, "ex_") {
		t.Errorf("%s", a.body)
	}

	args := `{"a":1,"b":2.50}`
	sum := execution.HexSHA256([]byte(args))
	want := execution.Request{
		Image: "python", Command: []string{"add", "--json"}, Stdin: args, Limits: execution.Limits{MemoryMiB: 64},
		Network: []execution.Destination{{Host: "db.internal", Port: 5432}}, Tools: []string{"adder"}, Metadata: map[string]string{"agent": "bot"},
	}
	if diff := cmp.Diff(want, asked.Request); diff != "" {
		t.Error(diff)
	}
	if asked.Action != execution.ActionToolCall || asked.Image.Digest != digest || asked.Tool.Name != "adder" || string(asked.Tool.Args) != args || asked.Tool.ArgsSHA256 != sum {
		t.Errorf("asked %+v", asked)
	}
	if job.Stdin != args || !slices.Equal(job.Command, []string{"add", "--json"}) {
		t.Errorf("ran %+v", job)
	}
	decided := w.recorded()[0].Decided
	if decided.Action != execution.ActionToolCall || decided.Tool != "adder" || decided.ArgsSHA256 != sum || decided.Image != "python" || !slices.Equal(decided.Tools, []string{"adder"}) {
		t.Errorf("recorded %+v", decided)
	}
	for _, r := range w.recorded() {
		if text, _ := json.Marshal(r); strings.Contains(string(text), "2.50") {
			t.Errorf("the arguments stand in the record: %s", text)
		}
	}
	if h := w.history(); h != "resolve decide decided lend execute revoke ended" {
		t.Errorf("history %q", h)
	}
}

// A tool without a credential asks for none.
func TestToolCallWithoutCredential(t *testing.T) {
	w := withTools(t)
	w.decide = func(q execution.Question) execution.Decision {
		if len(q.Request.Tools) > 0 {
			t.Errorf("it asks for %v", q.Request.Tools)
		}
		return allow()
	}
	if a := serve(t, w, nil).do("POST", calls("plain"), callerToken, fitting); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// A tool that fails has a result like any other, which says so.
func TestToolThatFails(t *testing.T) {
	seven := 7
	for name, test := range map[string]struct {
		result execution.Result
		has    []string
	}{
		"exits with 7": {execution.Result{Outcome: execution.OutcomeExited, ExitCode: &seven, Stdout: []byte("no")}, []string{
			`"content":"no"`, `"structured":null`, `"outcome":"exited"`, `"exit_code":7`, `"is_error":true`,
		}},
		"takes too long": {execution.Result{Outcome: execution.OutcomeTimedOut, ExitCode: &seven}, []string{
			`"content":""`, `"outcome":"timed_out"`, `"exit_code":null`, `"is_error":true`,
		}},
		"writes too much": {execution.Result{Outcome: execution.OutcomeOutputLimit, Stdout: []byte("1"), Truncated: execution.Truncated{Stdout: true}}, []string{
			`"content":"1"`, `"structured":null`, `"truncated":true`, `"is_error":true`,
		}},
		"writes what is no JSON to everybody": {execution.Result{Outcome: execution.OutcomeExited, ExitCode: new(int), Stdout: []byte(`{"a":1,"a":2}`)}, []string{
			`"structured":null`, `"is_error":false`,
		}},
		"writes what is no UTF-8": {execution.Result{Outcome: execution.OutcomeExited, ExitCode: new(int), Stdout: []byte("\"\xff\"")}, []string{
			`"structured":null`, "\"\\\"\ufffd\\\"\"",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := withTools(t)
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { return test.result, nil }
			a := serve(t, w, nil).do("POST", calls("plain"), callerToken, fitting)
			if a.StatusCode != 200 {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			for _, want := range test.has {
				if !strings.Contains(a.body, want) {
					t.Errorf("no %s in %s", want, a.body)
				}
			}
		})
	}
}

// notGranted is what a policy says of a tool that it does not grant, and more.
func notGranted(q execution.Question) execution.Decision {
	d := execution.Deny("sha256:rev", execution.Reason{Code: "tool_not_granted", Message: "not " + q.Tool.Name, Rule: "tools.granted"})
	d.Reasons = append(d.Reasons, execution.Reason{Code: "network_not_granted", Message: "db.internal:5432"})
	return d
}

// Who may not call a tool cannot tell whether there is one: not by the answer, not by
// arguments that do not fit, not while the engine is away. The record has the whole.
func TestToolsThatAreNotGrantedAreAsUnknown(t *testing.T) {
	away := func(string, string) (execution.Image, error) {
		return execution.Image{}, &execution.Error{Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable}
	}
	missing := func(string, string) (execution.Image, error) {
		return execution.Image{}, &execution.Error{Kind: execution.KindNotFound, Code: "image_unknown"}
	}
	allowAll := func(execution.Question) execution.Decision { return allow() }
	for name, test := range map[string]struct {
		decide func(execution.Question) execution.Decision
		image  func(string, string) (execution.Image, error)
		body   string
		tools  []string // of these and of one that there is not the answers are the same
		status int
	}{
		"not granted":               {notGranted, nil, fitting, []string{"adder", "weather", "database"}, 403},
		"arguments that do not fit": {notGranted, nil, `{"arguments": {"x": 1}}`, []string{"adder", "weather", "database"}, 403},
		"no image":                  {notGranted, missing, fitting, []string{"adder", "weather", "database"}, 403},
		"no engine":                 {notGranted, away, fitting, []string{"adder", "weather", "database"}, 503},
		"a policy that allows all":  {allowAll, nil, fitting, nil, 403},
		"no policy": {func(execution.Question) execution.Decision {
			return execution.Deny("", execution.Reason{Code: execution.CodePolicyNotLoaded, Message: "none"})
		}, nil, fitting, []string{"adder"}, 503},
	} {
		t.Run(name, func(t *testing.T) {
			w := withTools(t)
			w.decide = test.decide
			if test.image != nil {
				w.image = test.image
			}
			s := serve(t, w, nil)
			unlike := func(tool string) (int, map[string]any, []string) {
				before := len(w.recorded())
				a := s.do("POST", calls(tool), callerToken, test.body)
				var p map[string]any
				if err := json.Unmarshal([]byte(strings.ReplaceAll(a.body, tool, "TOOL")), &p); err != nil {
					t.Fatal(err)
				}
				delete(p, "instance")
				delete(p, "execution")
				var kinds []string
				for _, r := range w.recorded()[before:] {
					kinds = append(kinds, string(r.Type)+" "+r.Decided.Tool+" "+string(r.Decided.Decision.Effect))
				}
				return a.StatusCode, p, kinds
			}
			status, want, kinds := unlike("nothing")
			if status != test.status || !slices.Equal(kinds, []string{"decided nothing deny"}) {
				t.Errorf("unknown: %d %v, recorded %v", status, want, kinds)
			}
			if test.status == 403 && (want["code"] != "tool_not_granted" || want["detail"] != `the tool "TOOL" is not granted`) {
				t.Errorf("unknown: %v", want)
			}
			for _, tool := range test.tools {
				status, got, kinds := unlike(tool)
				if diff := cmp.Diff(want, got); status != test.status || diff != "" {
					t.Errorf("%s: %d %s", tool, status, diff)
				}
				if !slices.Equal(kinds, []string{"decided " + tool + " deny"}) {
					t.Errorf("%s: recorded %v", tool, kinds)
				}
			}
			if strings.Contains(w.history(), "execute") {
				t.Error("something ran")
			}
		})
	}
}

// The engine is asked as often for a tool that there is not.
func TestUnknownToolsTakeTheSameWay(t *testing.T) {
	history := func(tool string) string {
		w := withTools(t)
		w.decide = notGranted
		serve(t, w, nil).do("POST", calls(tool), callerToken, fitting)
		return w.history()
	}
	want := history("nothing")
	for _, tool := range []string{"adder", "weather", "database"} {
		if got := history(tool); got != want {
			t.Errorf("%s: %q, and %q of none", tool, got, want)
		}
	}
}

func TestToolCallsThatAreRefused(t *testing.T) {
	denies := func(code string) func(execution.Question) execution.Decision {
		return func(execution.Question) execution.Decision {
			return execution.Deny("sha256:rev", execution.Reason{Code: code, Message: "m"})
		}
	}
	withoutImage := func(execution.Question) execution.Decision { return allowRequest() }
	held := func(execution.Question) execution.Decision {
		d := allow()
		d.Effect, d.Approval = execution.EffectRequireApproval, &execution.ApprovalTerms{ExpiresS: 60, Roles: []string{"approver"}}
		return d
	}
	for name, test := range map[string]struct {
		decide              func(execution.Question) execution.Decision
		tool, body          string
		status              int
		code, pointer, says string
		recorded            int
	}{
		"arguments that do not fit":    {nil, "adder", `{"arguments": {"a": 1, "c": 2}}`, 400, "", "/arguments/b", "is required", 0},
		"no arguments":                 {nil, "adder", `{}`, 400, "", "/arguments", "", 0},
		"no JSON":                      {nil, "adder", `{`, 400, "", "", "", 0},
		"the name of a tool that none": {nil, "a%20b", fitting, 400, "tool_name_invalid", "", "", 0},
		"a name that climbs":           {nil, "..%2fadder", fitting, 404, "", "", "", 0},
		"a long name":                  {nil, strings.Repeat("a", 65), fitting, 400, "tool_name_invalid", "", "", 0},
		"a megabyte":                   {nil, "adder", `{"arguments": {"a": "` + strings.Repeat("x", 1<<20) + `"}}`, 413, "", "", "", 0},
		"another reason":               {denies("budget_spent"), "adder", fitting, 403, "", "", "budget_spent", 1},
		"a tool without a call":        {withoutImage, "database", fitting, 403, "", "", "no call of their own", 1},
		"a request with an image":      {nil, "weather", fitting, 403, "", "", "another image", 1},
		"a program without an image":   {withoutImage, "adder", fitting, 403, "", "", "another image", 1},
		"a part of a path that climbs": {withoutImage, "weather", `{"arguments": {"a": "..", "b": 1}}`, 400, "", "/arguments/a", "", 0},
		"what needs an approval":       {held, "adder", fitting, 403, "", "", "which only an execution can await", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := withTools(t)
			if test.decide != nil {
				w.decide = test.decide
			}
			a := serve(t, w, nil).do("POST", calls(test.tool), callerToken, test.body)
			p := a.problem(t)
			if a.StatusCode != test.status || p.Code != test.code && test.code != "" || !strings.Contains(a.body, test.says) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if test.pointer != "" && !slices.ContainsFunc(p.Errors, func(e execution.FieldError) bool { return e.Pointer == test.pointer }) {
				t.Errorf("no %s in %s", test.pointer, a.body)
			}
			if len(w.recorded()) != test.recorded || strings.Contains(w.history(), "execute") {
				t.Errorf("recorded %v, history %q", w.recorded(), w.history())
			}
		})
	}
	s := serve(t, withTools(t), nil)
	if a := s.do("POST", calls("adder"), callerToken, fitting, "Idempotency-Key", "k"); a.StatusCode != 400 {
		t.Errorf("with a key: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", calls("adder"), callerToken, fitting, "Content-Type", "text/plain"); a.StatusCode != 415 {
		t.Errorf("as text: %d %s", a.StatusCode, a.body)
	}
}

// What is not recorded does not run, and what ran unrecorded is withheld.
func TestToolCallsAreRecordedOrDoNotHappen(t *testing.T) {
	for _, at := range []execution.RecordType{execution.RecordDecided, execution.RecordEnded} {
		w := withTools(t)
		w.append = func(_ context.Context, r execution.Record) error {
			if r.Type == at {
				return errors.New("full")
			}
			return nil
		}
		a := serve(t, w, nil).do("POST", calls("plain"), callerToken, fitting)
		if a.StatusCode != 503 || a.problem(t).Code != "audit_unavailable" || strings.Contains(a.body, "content") {
			t.Errorf("%s: %d %s", at, a.StatusCode, a.body)
		}
		if ran := strings.Contains(w.history(), "execute"); ran != (at == execution.RecordEnded) {
			t.Errorf("%s: history %q", at, w.history())
		}
	}
}

// The list has what policy would let the caller call now; nothing is recorded, and
// nothing of what runs is shown.
func TestToolsAreListed(t *testing.T) {
	w := withTools(t)
	w.decide = func(q execution.Question) execution.Decision {
		if q.Tool.Args != nil || q.Action != execution.ActionToolCall || q.Request.Stdin != "" {
			t.Errorf("asked %+v", q)
		}
		switch q.Principal.Tenant + " " + q.Tool.Name {
		case "acme adder", "other plain":
			return allow()
		case "fourth weather", "fourth database":
			return allowRequest()
		}
		return notGranted(q)
	}
	s := serve(t, w, nil)
	for tenant, want := range map[string]string{
		"acme":   `{"tools":[{"name":"adder","description":"Adds.","kind":"container","arguments":` + adderSchema + `}]}`,
		"other":  `{"tools":[{"name":"plain","description":"Is plain.","kind":"container","arguments":` + adderSchema + `}]}`,
		"third":  `{"tools":[]}`,
		"fourth": `{"tools":[{"name":"weather","description":"Tells.","kind":"http","arguments":` + adderSchema + `}]}`,
	} {
		if a := s.do("GET", "/v1/tools", "caller/"+tenant, ""); a.StatusCode != 200 || a.body != want {
			t.Errorf("%s: %d %s", tenant, a.StatusCode, a.body)
		}
	}
	if len(w.recorded()) != 0 || strings.Contains(w.history(), "decide ") {
		t.Errorf("recorded %v, history %q", w.recorded(), w.history())
	}
	w.decide = func(execution.Question) execution.Decision {
		return execution.Deny("", execution.Reason{Code: execution.CodePolicyTimeout, Message: "late"})
	}
	if a := s.do("GET", "/v1/tools", callerToken, ""); a.StatusCode != 503 {
		t.Errorf("no answer: %d %s", a.StatusCode, a.body)
	}
	w.image = func(string, string) (execution.Image, error) {
		return execution.Image{}, &execution.Error{Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable}
	}
	if a := s.do("GET", "/v1/tools", callerToken, ""); a.StatusCode != 503 {
		t.Errorf("no engine: %d %s", a.StatusCode, a.body)
	}
	if a := serve(t, newWorld(), nil).do("GET", "/v1/tools", callerToken, ""); a.StatusCode != 200 || a.body != `{"tools":[]}` {
		t.Errorf("no registry: %d %s", a.StatusCode, a.body)
	}
}
