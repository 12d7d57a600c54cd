package gateway_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// Where there is no room for it the approval is still to be had.
func TestApprovedWhereThereIsNoRoom(t *testing.T) {
	turn := make(chan struct{})
	o := newOffice(t, func(c *gateway.ServiceConfig) { c.MaxRunning, c.MaxQueued = 1, 1 })
	o.execute = func(context.Context, execution.Job) (execution.Result, error) { <-turn; return exited(0), nil }
	first, second, third := o.ask(), o.ask(), o.ask()
	for _, asked := range []awaits{first, second} {
		if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	o.state(second.ID, "queued")
	if a := o.decideOn(third.Approval, approverToken, yes); a.StatusCode != 429 || a.problem(t).Code != "queue_full" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(third.ID, "awaiting_approval")
	if a := o.do("GET", "/v1/executions/"+third.ID+"/events", callerToken, "", "Accept", "text/event-stream"); a.StatusCode != 409 || a.problem(t).Code != "awaiting_approval" {
		t.Errorf("events of what awaits approval: %d %s", a.StatusCode, a.body)
	}
	turn <- struct{}{}
	turn <- struct{}{}
	o.state(second.ID, "ended")
	if a := o.decideOn(third.Approval, approverToken, yes); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	turn <- struct{}{}
	o.state(third.ID, "ended")

	last := o.ask()
	if err := o.service.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := o.decideOn(last.Approval, approverToken, yes); a.StatusCode != 503 || a.problem(t).Code != "draining" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(last.ID, "awaiting_approval")
	if n := strings.Count(o.types(), "approval_approved"); n != 3 {
		t.Errorf("records %s", o.types())
	}
}

// Who asks withdraws while somebody approves: one of the two holds, and the records
// say which.
func TestWithdrawnWhileItIsApproved(t *testing.T) {
	o := newOffice(t, nil)
	for range 10 {
		before := len(o.recorded())
		asked := o.ask()
		var both sync.WaitGroup
		var withdrawn, approved int
		both.Go(func() { withdrawn = o.do("DELETE", "/v1/executions/"+asked.ID, callerToken, "").StatusCode })
		both.Go(func() { approved = o.decideOn(asked.Approval, approverToken, yes).StatusCode })
		both.Wait()
		body := o.state(asked.ID, "ended")
		var types []string
		for _, r := range o.recorded()[before:] {
			types = append(types, string(r.Type))
		}
		all := strings.Join(types, " ")
		switch all {
		case "decided approval_requested approval_voided":
			if withdrawn != 204 || approved == 200 || !strings.Contains(body, `"outcome":"cancelled"`) {
				t.Errorf("%s: %d, %d, %s", all, withdrawn, approved, body)
			}
		case "decided approval_requested approval_approved decided ended":
			if approved != 200 {
				t.Errorf("%s: %d, %d, %s", all, withdrawn, approved, body)
			}
		default:
			t.Errorf("%s: %d, %d", all, withdrawn, approved)
		}
	}
}

// Whatever stands in a request, what is kept and comes back is the same request.
func TestKeptRequestIsTheSame(t *testing.T) {
	o := newOffice(t, nil)
	var ran execution.Job
	o.execute = func(_ context.Context, job execution.Job) (execution.Result, error) { ran = job; return exited(0), nil }
	body := `{"language":"python","code":"print('<&>\u2028\u0001\ud83d\ude00')","input":{ "b":"<a> \u2028 \u00e9", "a":1e400, "n":12345678901234567890.10},` +
		`"stdin":"\u0001<","files":[{"path":"a b","content":""},{"path":"é","content":"AAH/","encoding":"base64"}],"env":{"MODE":"<\u0001"},"metadata":{"x":"<"}}`
	a := o.do("POST", "/v1/executions", callerToken, body)
	var asked awaits
	if err := json.Unmarshal([]byte(a.body), &asked); err != nil || a.StatusCode != 202 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 200 || !strings.Contains(a.body, `"state":"approved"`) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	o.state(asked.ID, "ended")
	first, second := o.recorded()[0].Decided, o.recorded()[3].Decided
	if first.RequestSHA256 != second.RequestSHA256 || first.CodeSHA256 != second.CodeSHA256 {
		t.Errorf("%+v\n%+v", first, second)
	}
	if r := ran; r.Stdin != "\x01<" || r.Env["MODE"] != "<\x01" || string(r.Files[1].Content) != "\x00\x01\xff" || !strings.Contains(string(r.Input), "12345678901234567890.10") {
		t.Errorf("%+v", r)
	}
}
