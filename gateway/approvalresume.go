package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// Codes of reasons about approvals.
const (
	codeApprovalVoid     = "approval_void"     // what was approved is not what would run
	codeApprovalRepeated = "approval_repeated" // policy asks for approval again
)

// resumed is a request that resumes with an approval.
type resumed struct {
	approval StoredApproval // as it will be
	held     heldRequest
	by       Call // who approves

	claimed   bool   // the approval is used up
	concluded bool   // what came of it is said
	void      string // why it holds no more; empty where it does
}

// given is the approval as policy sees it.
func (r *resumed) given() *execution.ApprovalGiven {
	if r == nil {
		return nil
	}
	return &execution.ApprovalGiven{
		ID: r.approval.ID, By: r.approval.By, At: r.approval.At, Comment: r.approval.Comment,
		RequestSHA256: r.held.Binding.RequestSHA256,
	}
}

// hold refuses what is not the very thing that was approved: by who asked, by the
// request, by the image, or by any layer of the policy that decided.
func (r *resumed) hold(q execution.Question, d execution.Decision) execution.Decision {
	if r == nil {
		return d
	}
	was, is := r.held.Binding, bindingOf(q, d)
	switch {
	case was.Subject != is.Subject, was.Action != is.Action, was.RequestSHA256 != is.RequestSHA256:
		r.void = voidRequest
	case was.Image != is.Image:
		r.void = voidImage
	case was.Revision != is.Revision, !slices.Equal(was.Layers, is.Layers):
		r.void = voidPolicy
	default:
		return d
	}
	return unmet(d, codeApprovalVoid, "the approval does not hold any more: "+voids[r.void])
}

// resume carries out what was approved: as an execution that nobody waits for. It
// returns when it is decided anew. Where the error says that it was not, and
// r.claimed is false, the approval is still to be had.
func (s *Service) resume(ctx context.Context, r *resumed) (Standing, error) {
	row, err := s.load(ctx, r.approval.Execution)
	if err == nil && row.State != string(StateAwaiting) {
		err = executionNotFound()
	}
	if err != nil {
		return Standing{}, err
	}
	t := newTracked(row.ID, r.held.Principal)
	t.state, t.body, t.feed = StateAwaiting, row.Body, &feed{}
	s.live.add(t)
	return s.begin(ctx, Call{
		Principal: r.held.Principal, Request: r.held.Request, RequestID: r.held.RequestID, TraceID: r.held.TraceID,
		Queue: true, resumed: r,
	}, row, t)
}

// takeUp uses the approval up that call resumes with, if it is such a call: it is
// recorded, and then nobody can use it again. From here on the request either runs
// or is over.
func (s *Service) takeUp(ctx context.Context, call Call) error {
	r := call.resumed
	if r == nil {
		return nil
	}
	if err := s.recordApproval(ctx, execution.RecordApprovalApproved, r.by, r.held, r.approval); err != nil {
		return err
	}
	if err := s.approving(ctx, "approve", func(ctx context.Context) error { return s.approvals.Settle(ctx, r.approval, nil) }); err != nil {
		return err
	}
	r.claimed = true
	return nil
}

// conclude voids the approval that call resumed with, where what came of it says
// that it does not hold.
func (s *Service) conclude(ctx context.Context, call Call, state State) {
	r := call.resumed
	if r == nil || !r.claimed || r.concluded {
		return
	}
	r.concluded = true
	if state == StateReserved && r.void == "" {
		r.void = voidUndecided
	}
	if r.void == "" {
		return
	}
	if err := s.void(ctx, r.by, r.held, r.approval, r.void); err != nil {
		s.log.ErrorContext(ctx, "approval not voided", "approval", r.approval.ID, "error", err)
	}
}

// void ends a, which is pending or approved, and the execution if it still awaits
// it, because what was asked cannot be approved any more.
func (s *Service) void(ctx context.Context, by Call, held heldRequest, a StoredApproval, why string) error {
	if a.State == execution.ApprovalPending {
		a.By, a.At = by.Principal.Subject, time.Now().UTC().Truncate(time.Millisecond)
		a.Forget = a.At.Add(s.keep)
	}
	a.State, a.Why = execution.ApprovalVoided, why
	return s.settle(ctx, execution.RecordApprovalVoided, by, held, a, StateDenied, errVoided(why))
}

// errVoided is what an execution ends with whose approval is voided.
func errVoided(why string) error {
	return &execution.Error{
		Kind: execution.KindDenied, Code: "approval_voided", Detail: "it cannot be approved any more: " + voids[why],
		Reasons: []execution.Reason{{Code: why, Message: voids[why], Remediation: "Ask again."}},
	}
}

// settle records the end of a pending approval and makes it so, with the execution
// that ends in the state with the problem.
func (s *Service) settle(ctx context.Context, kind execution.RecordType, by Call, held heldRequest, a StoredApproval, state State, problem error) error {
	body, err := json.Marshal(problemOf(problem, "", a.Execution))
	if err != nil {
		return internal("encode problem", err)
	}
	return s.settleWith(ctx, kind, by, held, a, Stored{State: string(state), Body: body})
}

func (s *Service) settleWith(ctx context.Context, kind execution.RecordType, by Call, held heldRequest, a StoredApproval, end Stored) error {
	if err := s.recordApproval(ctx, kind, by, held, a); err != nil {
		return err
	}
	end.ID, end.Events, end.Expires = a.Execution, lostEvents, time.Now().Add(s.keep)
	if row, err := s.load(ctx, a.Execution); err == nil {
		end.Expires = later(row, s.keep)
	}
	err := s.approving(ctx, "settle approval", func(ctx context.Context) error { return s.approvals.Settle(ctx, a, &end) })
	s.changed.tell()
	return err
}

// mayAsk is why who asked may not ask any more; empty where they may.
func (s *Service) mayAsk(ctx context.Context, who execution.Principal) (why string, err error) {
	if who.Method != execution.MethodAPIKey || s.requesters == nil {
		return "", nil
	}
	var key execution.Key
	err = s.approving(ctx, "look at a key", func(ctx context.Context) (err error) {
		key, err = s.requesters.Key(ctx, who.Subject)
		return err
	})
	switch {
	case execution.KindOf(err) == execution.KindNotFound:
		return voidRequester, nil
	case err != nil:
		return "", err
	case !key.Revoked.IsZero() || !key.Expires.IsZero() && !time.Now().Before(key.Expires):
		return voidRequester, nil
	}
	return "", nil
}

// voidOf is why err, of a resume that did not come to be decided, means that it
// never will; empty where another try may.
func voidOf(err error) string {
	e, ok := errors.AsType[*execution.Error](err)
	switch {
	case !ok:
		return ""
	case e.Kind == execution.KindGone || e.Code == "session_not_found":
		return voidSession
	case e.Kind == execution.KindNotFound && e.Code == "execution_not_found":
		return voidLost
	case e.Kind == execution.KindNotFound, e.Kind == execution.KindInvalid:
		return voidImage
	}
	return ""
}
