package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// awaiting is the state of an execution that awaits approval, and the error that
// carries it to who asked.
type awaiting struct {
	ID       string    `json:"-"`
	Approval string    `json:"approval"`
	Expires  time.Time `json:"expires"`
}

// Error implements error.
func (a *awaiting) Error() string { return "awaits the approval " + a.Approval }

// Unwrap returns what the error is to those who do not know awaiting.
func (a *awaiting) Unwrap() error {
	return &execution.Error{Kind: execution.KindApprovalRequired, Code: "awaiting_approval", Detail: "awaits the approval " + a.Approval}
}

// bindingOf is what an approval of q holds for, where policy answered d.
func bindingOf(q execution.Question, d execution.Decision) execution.ApprovalBinding {
	return execution.ApprovalBinding{
		Subject: q.Principal.Subject, Action: q.Action, RequestSHA256: q.RequestSHA256,
		Image: q.Image.Digest, Revision: d.Revision, Layers: slices.Clone(d.Layers),
	}
}

// park keeps call, of which policy answered that it needs approval, until that is
// given. The record is durable before it is kept. The error is an *awaiting where
// that went well. asked is the request as its caller sent it.
func (s *Service) park(ctx context.Context, call Call, asked execution.Request, response Response) (Response, error) {
	claimed := call.tracked != nil
	terms := response.Decision.Approval
	now := time.Now().UTC().Truncate(time.Millisecond)
	a := StoredApproval{
		ID: execution.NewID(execution.PrefixApproval, now), Execution: response.ID,
		Tenant: call.Principal.Tenant, Subject: call.Principal.Subject, State: execution.ApprovalPending,
		Created: now, Expires: now.Add(time.Duration(terms.ExpiresS) * time.Second),
	}
	held := heldRequest{
		Principal: call.Principal, Request: asked, RequestID: call.RequestID, TraceID: call.TraceID,
		Binding: *response.binding, Roles: terms.Roles,
	}
	state := &awaiting{ID: response.ID, Approval: a.ID, Expires: a.Expires}
	var body []byte
	var err error
	if a.About, err = json.Marshal(aboutOf(call.Request, response)); err == nil {
		a.Request, err = json.Marshal(held)
	}
	if err == nil {
		body, err = json.Marshal(state)
	}
	if err != nil {
		return response, internal("encode approval", err)
	}
	if !claimed {
		if err := s.claimParked(ctx, a, response.binding.RequestSHA256); err != nil {
			return response, err
		}
	}
	if err := s.keepParked(ctx, call, held, a, body); err != nil {
		if !claimed {
			if err := s.release(ctx, a.Execution); err != nil {
				s.log.ErrorContext(ctx, "execution not released", "execution", a.Execution, "error", err)
			}
		}
		return Response{ID: response.ID}, err
	}
	s.changed.tell()
	s.notifyPending(a, terms.Roles, response.Decision.Reasons)
	return response, state
}

// claimParked makes the execution known that nobody can look up yet.
func (s *Service) claimParked(ctx context.Context, a StoredApproval, sum string) error {
	row := Stored{ID: a.Execution, Tenant: a.Tenant, Subject: a.Subject, RequestSHA256: sum, Expires: a.Expires.Add(s.keep)}
	_, err := s.remember(ctx, "claim execution", func(ctx context.Context) (Stored, error) { return s.executions.Claim(ctx, row) })
	return err
}

// keepParked records that a is asked for, and keeps it. What is not kept after all
// has a record that says so.
func (s *Service) keepParked(ctx context.Context, call Call, held heldRequest, a StoredApproval, body []byte) error {
	if err := s.recordApproval(ctx, execution.RecordApprovalRequested, call, held, a); err != nil {
		return err
	}
	err := s.approving(ctx, "add approval", func(ctx context.Context) error { return s.approvals.Add(ctx, a, body) })
	if err != nil {
		a.Why = voidLost
		if recordErr := s.recordApproval(ctx, execution.RecordApprovalVoided, call, held, a); recordErr != nil {
			s.log.ErrorContext(ctx, "the end of an approval is not recorded", "approval", a.ID, "error", recordErr)
		}
		return err
	}
	return s.eraseParked(ctx, a)
}

func aboutOf(r execution.Request, response Response) approvalAbout {
	about := approvalAbout{
		Binding: *response.binding, Roles: response.Decision.Approval.Roles, Reasons: response.Decision.Reasons,
		Language: r.Language, Image: response.image, Session: r.Session, EnvNames: array(slices.Sorted(maps.Keys(r.Env))),
		Network: array(r.Network), Tools: array(r.Tools), Metadata: r.Metadata, Grant: response.Decision.Grant,
	}
	if r.Code != "" {
		about.CodeSHA256, about.CodeBytes = execution.HexSHA256([]byte(r.Code)), len(r.Code)
	}
	return about
}

// recordApproval makes a record about a durable; by is who did it.
func (s *Service) recordApproval(ctx context.Context, kind execution.RecordType, by Call, held heldRequest, a StoredApproval) error {
	record := recordOf(kind, by, a.Execution)
	if by.Principal.Subject == "" { // nobody did
		record.Principal = nil
	}
	record.Approval = &execution.ApprovalChange{
		ID: a.ID, Binding: held.Binding, Expires: a.Expires, Roles: held.Roles, Comment: a.Comment, Why: a.Why,
	}
	_, err := s.records.append(ctx, record)
	if err != nil {
		s.counters.auditFailed.Add(1)
		return err
	}
	s.counters.approvals.add(string(kind))
	return nil
}

// approving is remember for approvals.
func (s *Service) approving(ctx context.Context, doing string, do func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	defer s.recovered(doing, &err)
	if err = do(ctx); err == nil {
		return nil
	}
	told := []execution.Kind{execution.KindSaturated, execution.KindNotFound, execution.KindConflict, execution.KindGone}
	if e, ok := errors.AsType[*execution.Error](err); ok && slices.Contains(told, e.Kind) {
		return e
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "approvals_unavailable",
		Detail: "approvals cannot be remembered now", RetryAfter: 5 * time.Second, Err: err,
	}
}

// maxApprovalS is how long an approval may be waited for, in seconds: a week.
const maxApprovalS = 7 * 24 * 60 * 60

// awaitable is d, which asks for approval, if one can be had, and else its refusal.
func (s *Service) awaitable(q execution.Question, d execution.Decision, in *session) execution.Decision {
	unfit := func(name string) bool { return name == "" || !fits(name, maxPolicyName) }
	terms := d.Approval
	switch {
	case q.Approval != nil:
		return refuse(d, codeApprovalRepeated, "the policy asks for approval again, although this one was given")
	case s.approvals == nil || q.Action != execution.ActionExecute:
		return refuse(d, execution.CodePolicyUnsupported, "the policy asks for an approval, which only an execution can await")
	case terms == nil || terms.ExpiresS < 1 || terms.ExpiresS > maxApprovalS || len(terms.Roles) == 0 ||
		len(terms.Roles) > execution.MaxApprovalRoles || slices.ContainsFunc(terms.Roles, unfit):
		return refuse(d, execution.CodePolicyInvalid, "the policy asks for an approval that nobody could give")
	}
	if wrong := cmp.Or(checkGrant(q, d.Grant), checkSize(d)); wrong != "" {
		return refuse(d, execution.CodePolicyInvalid, wrong)
	}
	if in == nil {
		return d
	}
	// What the session cannot hold now need not be approved first.
	held := d
	held.Effect = execution.EffectAllow
	if held = in.hold(held); !held.Allowed() {
		return held
	}
	held.Effect = execution.EffectRequireApproval
	return held
}
