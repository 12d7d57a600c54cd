package gateway_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

func obliged(obligations ...execution.Obligation) func(execution.Question) execution.Decision {
	return func(execution.Question) execution.Decision {
		d := allow()
		d.Obligations = obligations
		return d
	}
}

func redact(args string) execution.Obligation {
	return execution.Obligation{Type: "redact", Must: true, Args: json.RawMessage(args)}
}

// leaky is a program that writes a secret in pieces, and has it in its result.
func leaky(_ context.Context, job execution.Job) (execution.Result, error) {
	result := exited(0)
	result.Stdout = nil
	tell := func(kind execution.EventType, data string) error {
		if job.Events == nil {
			return nil
		}
		return job.Events(execution.Event{Type: kind, Data: []byte(data)})
	}
	if err := tell(execution.EventStarted, ""); err != nil {
		return result, err
	}
	for _, piece := range []string{"the key is AK", "IA12", "34 and more"} {
		result.Stdout, result.Stderr = append(result.Stdout, piece...), append(result.Stderr, piece...)
		if err := tell(execution.EventStdout, piece); err != nil {
			return result, err
		}
		if err := tell(execution.EventStderr, piece); err != nil {
			return result, err
		}
	}
	result.Value = json.RawMessage(`{"AKIA1234":["x AKIA1234", 1]}`)
	return result, nil
}

// Before output leaves, is kept or is recorded, it is redacted: in every form of
// the answer.
func TestOutputIsRedacted(t *testing.T) {
	for name, headers := range map[string][]string{
		"waits": nil, "stream": {"Accept", "text/event-stream"}, "key": {"Idempotency-Key", "k"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.decide, w.execute = obliged(redact(`{"patterns":["AKIA[0-9]{4}"]}`)), leaky
			s := serve(t, w, nil)
			a := s.do("POST", "/v1/executions", callerToken, program, headers...)
			const want = "the key is [redacted] and more"
			if a.StatusCode != 200 || strings.Contains(a.body, "AKIA") || !strings.Contains(a.body, want) || !strings.Contains(a.body, `{"[redacted]":["x [redacted]",1]}`) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			records := w.recorded()
			if e := records[len(records)-1].Ended; e.StdoutSHA256 != execution.HexSHA256([]byte(want)) || e.StderrSHA256 != e.StdoutSHA256 {
				t.Errorf("%+v", e)
			}
			w.memory.mu.Lock()
			defer w.memory.mu.Unlock()
			for _, row := range w.memory.rows {
				if strings.Contains(string(row.Body), "AKIA") {
					t.Errorf("kept: %s", row.Body)
				}
			}
		})
	}
}

// What was cut off at the limit of output could end in half a secret.
func TestCutOutputIsRedacted(t *testing.T) {
	w := newWorld()
	w.decide = obliged(redact(`{"patterns":["AKIA[0-9]{4}"]}`))
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		r := exited(0)
		r.Stdout, r.Truncated.Stdout = []byte("much output, AKIA12"), true
		return r, nil
	}
	s := serve(t, w, nil)
	if a := s.do("POST", "/v1/executions", callerToken, program); !strings.Contains(a.body, `"stdout":"much output,"`) {
		t.Errorf("%s", a.body)
	}
}

func TestObligationsThatCannotBeMet(t *testing.T) {
	for name, test := range map[string]struct {
		obligation execution.Obligation
		code       string
	}{
		"not known":      {execution.Obligation{Type: "watermark"}, execution.CodePolicyUnsupported},
		"retain":         {execution.Obligation{Type: "retain"}, execution.CodePolicyUnsupported},
		"record_full":    {execution.Obligation{Type: "record_full"}, execution.CodePolicyUnsupported},
		"no patterns":    {redact(`{}`), execution.CodePolicyInvalid},
		"nothing":        {execution.Obligation{Type: "redact"}, execution.CodePolicyInvalid},
		"another field":  {redact(`{"patterns":["a"],"in":["stdout"]}`), execution.CodePolicyInvalid},
		"a wrong type":   {redact(`{"patterns":"a"}`), execution.CodePolicyInvalid},
		"null":           {redact(`{"patterns":null}`), execution.CodePolicyInvalid},
		"no end":         {redact(`{"patterns":["a+"]}`), execution.CodePolicyInvalid},
		"no webhook":     {notifying(true, "team"), execution.CodePolicyUnsupported},
		"notify nothing": {execution.Obligation{Type: "notify", Args: json.RawMessage(`{"webhook":1}`)}, execution.CodePolicyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			test.obligation.Must = true
			w.decide = obliged(redact(`{"patterns":["b"]}`), test.obligation)
			s := serve(t, w, nil)
			a := s.do("POST", "/v1/executions", callerToken, program)
			if a.StatusCode != 403 || !strings.Contains(a.body, test.code) || strings.Contains(w.history(), "execute") {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			// One that need not be met is left out.
			test.obligation.Must = false
			w.decide = obliged(redact(`{"patterns":["ut"]}`), test.obligation)
			if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 200 || !strings.Contains(a.body, `"stdout":"o[redacted]"`) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	t.Run("too much together", func(t *testing.T) {
		w := newWorld()
		var many []execution.Obligation
		for range 20 {
			many = append(many, redact(`{"patterns":["[a-z]{1,250}x"]}`))
		}
		w.decide = obliged(many...)
		if a := serve(t, w, nil).do("POST", "/v1/executions", callerToken, program); a.StatusCode != 403 || !strings.Contains(a.body, execution.CodePolicyInvalid) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	})
}

// In a session: what was approved runs in it, if it is still there.
func TestApprovalInASession(t *testing.T) {
	o := newOffice(t, nil)
	o.decide = func(q execution.Question) execution.Decision {
		d := allow()
		if q.Action == execution.ActionExecute {
			d = needsApproval(q)
		}
		d.Grant.Session = execution.SessionGrant{IdleS: 60, AbsoluteS: 60, Max: 4}
		return d
	}
	open := func() string {
		a := o.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`)
		if a.StatusCode != 201 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		return strings.TrimPrefix(a.Header.Get("Location"), "/v1/sessions/")
	}
	ask := func(session string) (asked awaits) {
		a := o.do("POST", "/v1/executions", callerToken, `{"code":"x","session":"`+session+`"}`)
		if err := json.Unmarshal([]byte(a.body), &asked); err != nil || a.StatusCode != 202 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		return asked
	}
	stays, goes := open(), open()
	runs, lost := ask(stays), ask(goes)
	if a := o.do("DELETE", "/v1/sessions/"+goes, callerToken, ""); a.StatusCode != 204 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := o.decideOn(runs.Approval, approverToken, yes); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(runs.ID, "ended")
	if a := o.decideOn(lost.Approval, approverToken, yes); a.StatusCode != 410 || a.problem(t).Code != "approval_voided" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(lost.ID, "denied")
	if strings.Count(o.history(), "execute") != 1 {
		t.Errorf("%s", o.history())
	}
}
