package gateway_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// allowRequest is what a policy says of a call that runs nothing.
func allowRequest(credentials ...string) execution.Decision {
	d := allow(credentials...)
	d.Grant.Image = ""
	return d
}

// A tool that makes a request has its call decided, lent to, recorded and carried out as
// any other. No image is asked for, and the request has been made of the arguments.
func TestHTTPToolCall(t *testing.T) {
	w := withTools(t)
	var asked execution.Question
	var job execution.Job
	w.decide = func(q execution.Question) execution.Decision { asked = q; return allowRequest("weather") }
	w.execute = func(_ context.Context, j execution.Job) (execution.Result, error) {
		job = j
		return execution.Result{Outcome: execution.OutcomeExited, Status: 201, Stdout: []byte(`{"x":1}`)}, nil
	}
	a := serve(t, w, nil).do("POST", calls("weather"), callerToken, fitting)
	for _, want := range []string{`"content":"{\"x\":1}"`, `"structured":{"x":1}`, `"outcome":"exited"`, `"exit_code":null`, `"status":201`, `"is_error":false`} {
		if a.StatusCode != 200 || !strings.Contains(a.body, want) {
			t.Errorf("no %s: %d %s", want, a.StatusCode, a.body)
		}
	}
	want := execution.HTTPCall{Method: "GET", To: execution.Destination{Host: "api.weather.example", Port: 443}, Target: "/v1/1?b=2.50"}
	if diff := cmp.Diff(&want, job.Call); diff != "" || job.Tool != "weather" {
		t.Errorf("tool %s: %s", job.Tool, diff)
	}
	r := asked.Request
	if asked.Image != (execution.Image{}) || r.Image != "" || len(r.Command) > 0 || !slices.Equal(r.Tools, []string{"weather"}) ||
		!slices.Equal(r.Network, []execution.Destination{want.To}) || r.Limits != (execution.Limits{TimeoutMS: 500}) {
		t.Errorf("asked %+v", asked)
	}
	if h := w.history(); h != "resolve decide decided lend execute revoke ended" {
		t.Errorf("history %q", h)
	}
	decided, ended := w.recorded()[0].Decided, w.recorded()[1].Ended
	if decided.Tool != "weather" || decided.Image != "" || decided.Parent != "" || ended.Status != 201 || ended.ExitCode != nil {
		t.Errorf("recorded %+v and %+v", decided, ended)
	}
}

func TestHTTPToolThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		result execution.Result
		has    []string
	}{
		"answered 404": {execution.Result{Outcome: execution.OutcomeExited, Status: 404, Stdout: []byte("no")}, []string{`"content":"no"`, `"status":404`, `"is_error":true`}},
		"redirected":   {execution.Result{Outcome: execution.OutcomeExited, Status: 302}, []string{`"status":302`, `"is_error":false`}},
		"refused":      {execution.Result{Outcome: execution.OutcomeExited, Stdout: []byte(`{"code":"x"}`)}, []string{`"structured":{"code":"x"}`, `"status":null`, `"is_error":true`}},
		"too long":     {execution.Result{Outcome: execution.OutcomeTimedOut, Status: 200}, []string{`"outcome":"timed_out"`, `"status":200`, `"is_error":true`}},
		"too much": {execution.Result{Outcome: execution.OutcomeOutputLimit, Status: 200, Stdout: []byte("1"), Truncated: execution.Truncated{Stdout: true}}, []string{
			`"structured":null`, `"truncated":true`, `"is_error":true`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := withTools(t)
			w.decide = func(execution.Question) execution.Decision { return allowRequest() }
			w.execute = func(context.Context, execution.Job) (execution.Result, error) { return test.result, nil }
			a := serve(t, w, nil).do("POST", calls("weather"), callerToken, fitting)
			for _, want := range test.has {
				if a.StatusCode != 200 || !strings.Contains(a.body, want) {
					t.Errorf("no %s: %d %s", want, a.StatusCode, a.body)
				}
			}
		})
	}
}
