package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sending is the job of a program that sends something out, where policy decides about
// each request.
func sending() execution.Job {
	job := execution.NewJob("ex_01", caller().Owner(), execution.Request{
		Session: "se_01", Metadata: map[string]string{"agent": "triage-bot"},
	}, execution.Grant{Network: execution.Network{Decide: execution.DecideRequest}})
	job.Roles, job.Method = caller().Roles, caller().Method
	return job
}

func sent() execution.EgressRequest {
	return execution.EgressRequest{Host: "api.example.com", Port: 443, Method: "GET", Path: "/v1/items", Bytes: 0}
}

func egressDecider(t *testing.T, w *world) *gateway.EgressDecider {
	t.Helper()
	d, err := gateway.NewEgressDecider(w, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Policy is asked for the principal whose execution it is, with its roles.
func TestEgressIsAskedForThePrincipal(t *testing.T) {
	w := newWorld()
	var asked execution.Question
	w.decide = func(q execution.Question) execution.Decision {
		asked = q
		return execution.Decision{Effect: execution.EffectAllow, Revision: "sha256:rev"}
	}
	d := egressDecider(t, w).DecideEgress(t.Context(), sending(), sent())
	if !d.Allowed() || d.Revision != "sha256:rev" {
		t.Errorf("decided %+v", d)
	}
	want := execution.Question{
		ID: "ex_01", Principal: caller(), Action: execution.ActionEgress, Egress: new(sent()),
		Request: execution.Request{Session: "se_01", Metadata: map[string]string{"agent": "triage-bot"}},
	}
	if diff := cmp.Diff(want, asked, cmpopts.IgnoreFields(execution.Question{}, "Time")); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if since := time.Since(asked.Time); since < 0 || since > time.Minute {
		t.Errorf("asked of %v", asked.Time)
	}
}

// Whatever is not an explicit allow denies, and says why.
func TestEgressIsDeniedUnlessAllowed(t *testing.T) {
	reason := []execution.Reason{{Code: "no"}}
	for name, test := range map[string]struct {
		decide func(execution.Question) execution.Decision
		change func(*execution.Job, *execution.EgressRequest)
		code   string // of the last reason
	}{
		"the zero decision": {func(execution.Question) execution.Decision { return execution.Decision{} }, nil, execution.CodePolicyInvalid},
		"a denial":          {func(execution.Question) execution.Decision { return execution.Deny("", reason[0]) }, nil, "no"},
		"no reason":         {func(execution.Question) execution.Decision { return execution.Decision{Effect: execution.EffectDeny} }, nil, execution.CodePolicyInvalid},
		"an approval": {func(execution.Question) execution.Decision {
			return execution.Decision{Effect: execution.EffectRequireApproval, Reasons: reason, Approval: &execution.ApprovalTerms{ExpiresS: 1, Roles: []string{"approver"}}}
		}, nil, execution.CodePolicyInvalid},
		"another effect": {func(execution.Question) execution.Decision { return execution.Decision{Effect: "ALLOW"} }, nil, execution.CodePolicyInvalid},
		"a panic":        {func(execution.Question) execution.Decision { panic("policy") }, nil, execution.CodePolicyError},
		"a grant of neither": {nil, func(j *execution.Job, _ *execution.EgressRequest) { j.Grant.Network.Decide = "Request" },
			execution.CodePolicyInvalid},
		"a long host":   {nil, func(_ *execution.Job, r *execution.EgressRequest) { r.Host = strings.Repeat("a", 1<<10+1) }, "egress_invalid"},
		"a long method": {nil, func(_ *execution.Job, r *execution.EgressRequest) { r.Method = strings.Repeat("A", 33) }, "egress_invalid"},
		"a long path":   {nil, func(_ *execution.Job, r *execution.EgressRequest) { r.Path = strings.Repeat("/", 64<<10+1) }, "egress_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld() // whose policy allows
			if test.decide != nil {
				w.decide = test.decide
			}
			job, r := sending(), sent()
			if test.change != nil {
				test.change(&job, &r)
			}
			d := egressDecider(t, w).DecideEgress(t.Context(), job, r)
			if d.Effect != execution.EffectDeny || len(d.Reasons) == 0 || d.Reasons[len(d.Reasons)-1].Code != test.code {
				t.Errorf("decided %s for %+v", d.Effect, d.Reasons)
			}
			if d.Grant.Image != "" || d.Approval != nil {
				t.Errorf("a denial has %+v", d)
			}
		})
	}
}

// Where the grant decides, nobody is asked.
func TestGrantDecidesAboutEgress(t *testing.T) {
	for _, decide := range []execution.NetworkDecide{"", execution.DecideGrant} {
		w := newWorld()
		job := sending()
		job.Grant.Network.Decide = decide
		if d := egressDecider(t, w).DecideEgress(t.Context(), job, sent()); !d.Allowed() || w.history() != "" {
			t.Errorf("%q: decided %+v after %s", decide, d, w.history())
		}
	}
}

// What a policy says to a program has a bound, and of its grants nothing is passed on.
func TestEgressDecisionIsBounded(t *testing.T) {
	w := newWorld()
	many := make([]execution.Reason, 1000)
	for i := range many {
		many[i] = execution.Reason{Code: "no", Message: strings.Repeat("x", 1000)}
	}
	w.decide = func(execution.Question) execution.Decision {
		d := allow("github")
		d.Warnings = many
		return d
	}
	d := egressDecider(t, w).DecideEgress(t.Context(), sending(), sent())
	if !d.Allowed() || d.Grant.Image != "" || d.Grant.Credentials != nil || len(d.Warnings) >= len(many) {
		t.Errorf("%s, %d warnings, granted %+v", d.Effect, len(d.Warnings), d.Grant)
	}
	w.decide = func(execution.Question) execution.Decision {
		return execution.Decision{Effect: execution.EffectDeny, Reasons: many}
	}
	d = egressDecider(t, w).DecideEgress(t.Context(), sending(), sent())
	if n := len(d.Reasons); n > 20 || d.Reasons[n-1].Code != "reasons_omitted" {
		t.Errorf("%d reasons", n)
	}
}

// The decider is told how long it has.
func TestEgressDeciderHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlines{world: newWorld()}
		d, err := gateway.NewEgressDecider(w, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Fatal(err)
		}
		d.DecideEgress(t.Context(), sending(), sent())
		if left := time.Until(w.deadline); left <= 0 || left > 2*time.Second {
			t.Errorf("it has %v", left)
		}
	})
}

// deadlines remembers the deadline of the last question.
type deadlines struct {
	*world
	deadline time.Time
}

func (d *deadlines) Decide(ctx context.Context, q execution.Question) execution.Decision {
	d.deadline, _ = ctx.Deadline()
	return d.world.Decide(ctx, q)
}

func TestEgressDeciderNeedsItsParts(t *testing.T) {
	if _, err := gateway.NewEgressDecider(nil, slog.Default()); err == nil {
		t.Error("there is one without a decider")
	}
	if _, err := gateway.NewEgressDecider(newWorld(), nil); err == nil {
		t.Error("there is one without a logger")
	}
}

// Whoever asked for an execution is known to what it sends out.
func TestJobKnowsWhoAsked(t *testing.T) {
	w := newWorld()
	var job execution.Job
	w.execute = func(_ context.Context, j execution.Job) (execution.Result, error) {
		job = j
		return exited(0), nil
	}
	c := call()
	c.Request.Metadata = map[string]string{"purpose": "report"}
	if _, err := w.service(t).Execute(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(caller(), execution.Principal{
		Subject: job.Owner.Subject, Tenant: job.Owner.Tenant, Roles: job.Roles, Method: job.Method,
	}); diff != "" || job.Metadata["purpose"] != "report" {
		t.Errorf("the job is of (-want +got):\n%s with %v", diff, job.Metadata)
	}
}
