package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/execgate/execgate/execution"
)

// egressTimeout is how long a decider may take over one outbound request, where it has
// no shorter deadline of its own.
const egressTimeout = 2 * time.Second

// The bounds of what a program chose, in bytes: a longer one is not asked about.
const (
	maxEgressHost   = 1 << 10
	maxEgressMethod = 32
	maxEgressPath   = 64 << 10
)

// maxEgressReasons bounds the reasons of a decision about one request, in bytes of
// JSON: they go to the program.
const maxEgressReasons = 16 << 10

// codeEgressInvalid is of a request that policy is not asked about.
const codeEgressInvalid = "egress_invalid"

// EgressDecider asks policy about the requests that programs send out. It is safe for
// concurrent use.
type EgressDecider struct {
	ask func(context.Context, execution.Question) execution.Decision
	log *slog.Logger
}

// NewEgressDecider returns one that asks decider. Both are needed. It starts nothing.
func NewEgressDecider(decider Decider, log *slog.Logger) (*EgressDecider, error) {
	if decider == nil {
		return nil, errors.New("gateway egress: no decider")
	}
	if log == nil {
		return nil, errors.New("gateway egress: no logger")
	}
	return &EgressDecider{ask: decider.Decide, log: log}, nil
}

// DecideEgress decides about one request that the program of job sends out, which the
// rules of its grant open. Where the grant says that these decide, policy is not asked.
// Of the Decision only the effect, the reasons, the warnings and what names policies
// count. Whatever is not an explicit allow is a denial with a reason, and so is no answer.
func (e *EgressDecider) DecideEgress(ctx context.Context, job execution.Job, r execution.EgressRequest) execution.Decision {
	switch job.Grant.Network.Decide {
	case "", execution.DecideGrant:
		return execution.Decision{Effect: execution.EffectAllow, Reasons: []execution.Reason{}, Clamped: []execution.Clamp{}}
	case execution.DecideRequest:
	default:
		return execution.Deny("", execution.Reason{
			Code: execution.CodePolicyInvalid, Message: "the grant does not say who decides about requests",
		})
	}
	if len(r.Host) > maxEgressHost || len(r.Method) > maxEgressMethod || len(r.Path) > maxEgressPath {
		return execution.Deny("", execution.Reason{
			Code: codeEgressInvalid, Message: "the request has a host, a method or a path that is too long",
		})
	}
	ctx, cancel := context.WithTimeout(ctx, egressTimeout)
	defer cancel()
	return e.decide(ctx, egressQuestion(job, r))
}

// egressQuestion is what policy is asked: for the principal that asked for the
// execution, as it was then.
func egressQuestion(job execution.Job, r execution.EgressRequest) execution.Question {
	return execution.Question{
		ID: job.ID, Time: time.Now(), Action: execution.ActionEgress, Egress: &r,
		Principal: job.Principal(),
		Request:   execution.Request{Session: job.Session, Metadata: job.Metadata},
	}
}

// decide asks, and makes a denial of whatever is no allow.
func (e *EgressDecider) decide(ctx context.Context, q execution.Question) (d execution.Decision) {
	defer func() {
		if p := recover(); p != nil {
			e.log.ErrorContext(ctx, "panic", "doing", "decide about egress", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			d = execution.Deny("", execution.Reason{Code: execution.CodePolicyError, Message: "the policy could not be evaluated"})
		}
	}()
	d = e.ask(ctx, q)
	reasons, warnings := boundReasons(d.Reasons, maxEgressReasons), boundWarnings(d.Warnings)
	if !d.Allowed() && d.Effect != execution.EffectDeny {
		reasons = append(reasons, execution.Reason{
			Code: execution.CodePolicyInvalid, Message: "the policy did not allow the request, and it cannot wait for anything",
		})
	}
	if !d.Allowed() {
		d.Effect = execution.EffectDeny
		if len(reasons) == 0 {
			reasons = append(reasons, execution.Reason{Code: execution.CodePolicyInvalid, Message: "the policy denied and gave no reason"})
		}
	}
	return execution.Decision{
		Effect: d.Effect, Reasons: reasons, Clamped: []execution.Clamp{}, Warnings: warnings,
		Shadowed: boundWarnings(d.Shadowed), Revision: cut(d.Revision, maxPolicyName), Layers: d.Layers,
	}
}
