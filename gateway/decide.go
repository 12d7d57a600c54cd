package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// decide asks policy, and checks here once more what may never be wrong in an
// answer that allows. Whatever is not an explicit and whole allow denies
// (Invariant 2). in is the session that q is to run in, or nil.
func (s *Service) decide(ctx context.Context, q execution.Question, in *session) execution.Decision {
	d, err := s.ask(ctx, q)
	if err != nil {
		return execution.Deny("", execution.Reason{
			Code: execution.CodePolicyError, Message: "the policy could not be evaluated",
		})
	}
	return s.checked(q, d, in)
}

// checked is what remains of an answer of policy.
func (s *Service) checked(q execution.Question, d execution.Decision, in *session) execution.Decision {
	d.Reasons, d.Revision = boundReasons(d.Reasons, maxReasonsBytes), cut(d.Revision, maxPolicyName)
	d.Warnings, d.Shadowed = boundWarnings(d.Warnings), boundWarnings(d.Shadowed)
	if d.Clamped == nil {
		d.Clamped = []execution.Clamp{}
	}
	switch {
	case d.Effect == execution.EffectDeny:
	case d.Effect == execution.EffectRequireApproval:
		d = s.awaitable(q, d, in)
	case !d.Allowed():
		d = refuse(d, execution.CodePolicyInvalid, "the policy gave no effect that the gateway knows")
	default:
		if wrong := cmp.Or(checkGrant(q, d.Grant), checkSize(d)); wrong != "" {
			d = refuse(d, execution.CodePolicyInvalid, wrong)
		} else if reasons := s.unlendable(d.Grant.Credentials); reasons != nil {
			d.Effect, d.Reasons = execution.EffectDeny, append(slices.Clone(d.Reasons), reasons...)
		} else if in != nil {
			d = in.hold(d)
		}
	}
	if !d.Allowed() && d.Effect != execution.EffectRequireApproval {
		// Nothing was granted, also not in the record.
		d.Grant, d.Obligations, d.Clamped = execution.Grant{}, nil, []execution.Clamp{}
	}
	return d
}

// unlendable says why credentials that policy grants can never be lent here; nil
// where they can, or there are none.
func (s *Service) unlendable(credentials []execution.Credential) (reasons []execution.Reason) {
	if len(credentials) == 0 {
		return nil
	}
	err := s.checkLendable(credentials)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*execution.Error](err); ok && len(e.Reasons) > 0 {
		return e.Reasons
	}
	return []execution.Reason{{Code: codeCredentialUnlendable, Message: "the credentials that the policy grants cannot be lent"}}
}

// codeCredentialUnlendable is the reason of a lender that gives none.
const codeCredentialUnlendable = "credential_unlendable"

func (s *Service) checkLendable(credentials []execution.Credential) (err error) {
	defer s.recovered("check credentials", &err)
	return s.lender.Check(credentials)
}

func (s *Service) ask(ctx context.Context, q execution.Question) (d execution.Decision, err error) {
	defer s.recovered("decide", &err)
	return s.decider.Decide(ctx, q), nil
}

func refuse(d execution.Decision, code, message string) execution.Decision {
	d.Effect = execution.EffectDeny
	d.Reasons = append(slices.Clone(d.Reasons), execution.Reason{Code: code, Message: message})
	return d
}

// checkGrant says what is wrong with a grant: it must be whole, be for the image
// that was asked about, and cover what would be run. Limits have no default
// anywhere downstream.
func checkGrant(q execution.Question, g execution.Grant) string {
	if err := g.Limits.Validate(); err != nil {
		return "the policy granted an impossible limit: " + err.Error()
	}
	// A tool without an image runs nothing; that it is one, settle holds it to.
	runsNothing := q.Action == execution.ActionToolCall && q.Image == (execution.Image{})
	if g.Image != q.Image.Digest || g.Image == "" && !runsNothing {
		return "the policy granted another image than the one that was asked for"
	}
	if g.Runtime == "" {
		return "the policy granted no runtime"
	}
	if q.Action == execution.ActionSession || q.Request.Session != "" {
		if err := g.Session.Validate(); err != nil {
			return "the policy granted no session: " + err.Error()
		}
	}
	for name := range q.Request.Env {
		if !slices.Contains(g.Env, name) {
			return "the policy did not grant every variable that was asked for"
		}
	}
	return ""
}

// denied is the error of a decision that denies.
func denied(d execution.Decision) error {
	if err := unanswered(d); err != nil {
		return err
	}
	return &execution.Error{
		Kind: execution.KindDenied, Detail: detailOf(d.Reasons), Reasons: d.Reasons,
	}
}

// unanswered is the error, of KindUnavailable, of a decision that is no answer of
// policy but the lack of one, which another try may get; nil of all others.
func unanswered(d execution.Decision) error {
	if len(d.Reasons) != 1 || d.Reasons[0].Code != execution.CodePolicyTimeout && d.Reasons[0].Code != execution.CodePolicyNotLoaded {
		return nil
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: d.Reasons[0].Code, Detail: detailOf(d.Reasons), Reasons: d.Reasons,
		RetryAfter: time.Second,
	}
}

func detailOf(reasons []execution.Reason) string {
	var messages []string
	for _, r := range reasons {
		if r.Message != "" {
			messages = append(messages, r.Message)
		}
	}
	if len(messages) == 0 {
		return "the policy does not allow this"
	}
	return strings.Join(messages, "; ")
}

// engineUnavailable is the error of an execution that was not decided by policy
// because the engine could not say what would run.
func engineUnavailable(cause error, reasons []execution.Reason) error {
	e := &execution.Error{
		Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable,
		Detail: "the container engine does not answer", Reasons: reasons, Err: cause,
	}
	if c, ok := errors.AsType[*execution.Error](cause); ok {
		e.RetryAfter = c.RetryAfter
	}
	return e
}

// engineError is the error of what was allowed and that we failed to do: of
// KindUnavailable where trying again may help, of KindGone or KindConflict where
// its session has ended or is busy after all, and else internal.
func engineError(cause error) error {
	e, ok := errors.AsType[*execution.Error](cause)
	switch {
	case ok && e.Kind == execution.KindGone:
		return errSessionEnded(execution.SessionLost)
	case ok && e.Kind == execution.KindConflict:
		return errSessionBusy()
	case ok && e.Kind == execution.KindUnavailable:
		return &execution.Error{
			Kind: e.Kind, Code: e.Code, Detail: e.Detail, RetryAfter: max(e.RetryAfter, time.Second), Err: cause,
		}
	}
	return internal("execute", cause)
}

func internal(doing string, cause error) error {
	e := &execution.Error{Kind: execution.KindInternal, Err: fmt.Errorf("%s: %w", doing, cause)}
	if c, ok := errors.AsType[*execution.Error](cause); ok {
		e.Code = c.Code
	}
	return e
}

// gone is the error of a caller that left, or of a drain that cancelled, before
// anything was decided.
func gone(ctx context.Context) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "cancelled", Detail: "cancelled before it was decided",
		RetryAfter: time.Second, Err: context.Cause(ctx),
	}
}
