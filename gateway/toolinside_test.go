package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// callingJob is a job that runs, in a session, whose program calls tools.
func callingJob() execution.Job {
	return execution.Job{
		ID: "ex_parent", Owner: execution.Owner{Tenant: "acme", Subject: "ak_caller"},
		Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey, Metadata: map[string]string{"agent": "bot"}, Session: "ss_parent",
		RequestID: "rq_parent", TraceID: strings.Repeat("b", 32),
	}
}

type answered struct {
	ID, Content, Outcome, Code, Detail string
	Status                             int
	Errors                             []execution.FieldError
	Reasons                            []execution.Reason
}

func callFrom(t testing.TB, s *gateway.Service, name, arguments string) (int, answered) {
	t.Helper()
	status, document := s.CallToolFrom(t.Context(), callingJob(), name, []byte(arguments))
	var a answered
	if err := json.Unmarshal(document, &a); err != nil {
		t.Fatalf("%d %s: %v", status, document, err)
	}
	return status, a
}

// A program calls tools for who asked for it, in executions of their own that name its.
func TestProgramCallsTools(t *testing.T) {
	w := withTools(t)
	w.decide = func(q execution.Question) execution.Decision {
		if q.Principal.Subject != "ak_caller" || q.Principal.Tenant != "acme" || q.Principal.Method != execution.MethodAPIKey || !slices.Equal(q.Principal.Roles, callingJob().Roles) {
			t.Errorf("asked for %+v", q.Principal)
		}
		if q.Action != execution.ActionToolCall || q.Request.Session != "" || q.Approval != nil || len(q.Request.Env) > 0 {
			t.Errorf("asked for %s %+v, approved by %+v", q.Action, q.Request, q.Approval)
		}
		if q.Tool.Name == "weather" {
			return allowRequest("weather")
		}
		return allow()
	}
	s := w.service(t)
	for i, tool := range []string{"plain", "weather"} {
		status, a := callFrom(t, s, tool, ` {"a": 1, "b": 2.50} `)
		if status != 200 || a.Content != "out" || a.Outcome != "exited" || a.ID == callingJob().ID {
			t.Errorf("%d %+v", status, a)
		}
		decided, ended := w.recorded()[2*i], w.recorded()[2*i+1]
		d := decided.Decided
		if decided.Execution != a.ID || ended.Execution != a.ID || decided.Principal.Subject != "ak_caller" || d.Parent != "ex_parent" || d.Tool != tool ||
			d.ArgsSHA256 != execution.HexSHA256([]byte(`{"a":1,"b":2.50}`)) || d.Metadata["agent"] != "bot" {
			t.Errorf("recorded %+v %+v", decided, d)
		}
		for _, r := range []execution.Record{decided, ended} {
			if r.RequestID != "rq_parent" || r.TraceID != strings.Repeat("b", 32) || r.Principal.Method != execution.MethodAPIKey {
				t.Errorf("%s is recorded of another request than its parent: %+v", r.Type, r)
			}
		}
	}
	if status, document := s.ListToolsFrom(t.Context(), callingJob()); status != 200 || !strings.Contains(string(document), `"name":"plain"`) || !strings.Contains(string(document), `"name":"weather"`) {
		t.Errorf("%d %s", status, document)
	}
}

func TestProgramCallsToolsWrongly(t *testing.T) {
	for name, test := range map[string]struct {
		tool, arguments string
		status          int
		code, pointer   string
	}{
		"nothing":             {"plain", "", 400, "", ""},
		"no object":           {"plain", "[1]", 400, "", ""},
		"two objects":         {"plain", `{"a":1,"b":2}{}`, 400, "", ""},
		"a key twice":         {"plain", `{"a":1,"b":2,"\u0061":3}`, 400, "", "/a"},
		"NUL":                 {"plain", `{"a":1,"b":2,"c":"\u0000"}`, 400, "", "/c"},
		"off the schema":      {"plain", `{"a":"1","c":1}`, 400, "", "/c"},
		"as the API has it":   {"plain", `{"arguments":{"a":1,"b":2}}`, 400, "", "/arguments"},
		"a part that climbs":  {"weather", `{"a":"../x","b":2}`, 400, "", "/a"},
		"too much":            {"plain", `{"a":"` + strings.Repeat("x", 256<<10) + `"}`, 413, "", ""},
		"a name of no tool":   {"a b", `{}`, 400, "tool_name_invalid", ""},
		"a name of no length": {"", `{}`, 400, "tool_name_invalid", ""},
		"a tool of no call":   {"database", `{"a":1,"b":2}`, 403, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := withTools(t)
			w.decide = func(q execution.Question) execution.Decision {
				if q.Tool.Name == "plain" {
					return allow()
				}
				return allowRequest()
			}
			status, a := callFrom(t, w.service(t), test.tool, test.arguments)
			if status != test.status || a.Status != status || test.code != "" && a.Code != test.code {
				t.Errorf("%d %+v", status, a)
			}
			if test.pointer != "" && !slices.ContainsFunc(a.Errors, func(e execution.FieldError) bool { return e.Pointer == test.pointer }) {
				t.Errorf("no %s in %+v", test.pointer, a.Errors)
			}
			if strings.Contains(w.history(), "execute") {
				t.Error("something ran")
			}
		})
	}
}

// A program cannot tell a tool that is not granted from one that there is not.
func TestProgramCallsToolsThatAreNotGranted(t *testing.T) {
	w := withTools(t)
	w.decide = notGranted
	s := w.service(t)
	refused := func(tool string) answered {
		status, a := callFrom(t, s, tool, `{"x":1}`)
		if status != 403 || a.Code != "tool_not_granted" {
			t.Errorf("%s: %d %+v", tool, status, a)
		}
		a.Detail = strings.ReplaceAll(a.Detail, tool, "TOOL")
		a.Reasons[0].Message = strings.ReplaceAll(a.Reasons[0].Message, tool, "TOOL")
		return a
	}
	want := refused("nothing")
	for _, tool := range []string{"adder", "plain", "weather", "database"} {
		if diff := cmp.Diff(want, refused(tool)); diff != "" {
			t.Errorf("%s: %s", tool, diff)
		}
	}
}

// A program that holds the last slot is not made to wait for another, which would be for
// ever: also where others may wait.
func TestProgramDoesNotWaitForASlot(t *testing.T) {
	w := withTools(t)
	config := w.config()
	config.MaxRunning, config.MaxQueued = 1, 10
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	var status int
	var a answered
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		status, a = callFrom(t, s, "plain", `{"a":1,"b":2}`)
		return exited(0), nil
	}
	c := call()
	c.Queue = true
	if _, err := s.Execute(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if status != 429 || a.Code != "executions_saturated" {
		t.Errorf("%d %+v", status, a)
	}
}

// What a program has called ends with it, and is recorded as cancelled.
func TestProgramEndsWithWhatItCalled(t *testing.T) {
	w := withTools(t)
	ctx, end := context.WithCancel(t.Context())
	w.execute = func(ctx context.Context, _ execution.Job) (execution.Result, error) {
		end() // as the program's
		<-ctx.Done()
		return execution.Result{}, fmt.Errorf("stopped: %w", ctx.Err())
	}
	s := w.service(t)
	status, document := s.CallToolFrom(ctx, callingJob(), "plain", []byte(`{"a":1,"b":2}`))
	if status != 200 || !strings.Contains(string(document), `"outcome":"cancelled"`) || !strings.Contains(string(document), `"is_error":true`) {
		t.Errorf("%d %s", status, document)
	}
	if ended := w.recorded()[1].Ended; ended == nil || ended.Outcome != execution.OutcomeCancelled {
		t.Errorf("recorded %+v", w.recorded()[1])
	}
	before := w.history()
	if status, document := s.CallToolFrom(ctx, callingJob(), "plain", []byte(`{"a":1,"b":2}`)); strings.Contains(strings.TrimPrefix(w.history(), before), "execute") {
		t.Errorf("after the end: %d %s", status, document)
	}
}
