package gateway

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// Settled is what came of approving or denying.
type Settled struct {
	Approval StoredApproval // as it is now, without its request
	// Execution is how the execution stands: of what was approved after it was
	// decided anew.
	Execution Standing
}

// SettleApproval approves or denies the approval called id, as by.Principal. What
// is approved is decided anew, and runs only if policy now allows it; SettleApproval
// returns when that is decided.
//
// Errors are of KindNotFound for what is not of the principal's tenant; KindDenied
// (approval_own, approval_role) for who may not; KindConflict (approval_settled)
// where it is not pending any more, or being settled right now; KindGone
// (approval_expired, approval_voided) where it has just ended, by itself or because
// what was asked cannot be approved any more; and those of Submit, where the
// approval is still to be had unless its state says otherwise.
func (s *Service) SettleApproval(ctx context.Context, by Call, id string, approve bool, comment string) (Settled, error) {
	a, err := s.visible(ctx, by.Principal, id)
	if err != nil {
		return Settled{}, err
	}
	if !s.settling.take(id) {
		return Settled{}, errApprovalSettled("somebody else is deciding it right now; look at it again")
	}
	defer s.settling.give(id)
	at := time.Now().UTC().Truncate(time.Millisecond)
	a, held, err := s.pending(ctx, by, a.ID, at)
	if err != nil {
		return Settled{}, err
	}
	a.By, a.At, a.Comment = by.Principal.Subject, at, comment
	a.Forget = a.At.Add(s.keep)
	if approve {
		return s.approve(ctx, &resumed{approval: a, held: held, by: by})
	}
	a.State = execution.ApprovalDenied
	if err := s.settle(ctx, execution.RecordApprovalDenied, by, held, a, StateDenied, errApprovalDenied(comment)); err != nil {
		return Settled{}, err
	}
	return s.settledNow(ctx, a)
}

// pending returns what is kept of the approval called id, if by may settle it at
// that time. It is looked at once more, now that nobody else settles it.
func (s *Service) pending(ctx context.Context, by Call, id string, at time.Time) (StoredApproval, heldRequest, error) {
	a, held, err := s.held(ctx, id)
	who := by.Principal
	switch {
	case err != nil:
		return a, held, err
	case a.State != execution.ApprovalPending:
		return a, held, errApprovalSettled("the approval is " + string(a.State))
	case !at.Before(a.Expires):
		if err := s.expire(ctx, a, held); err != nil {
			return a, held, err
		}
		return a, held, errApprovalExpired()
	case held.Principal.Owner() == who.Owner():
		return a, held, &execution.Error{
			Kind: execution.KindDenied, Code: "approval_own", Detail: "nobody approves what they asked for themselves",
			Reasons: []execution.Reason{{Code: "approval_own", Message: "nobody approves what they asked for themselves", Remediation: "Have another approver decide."}},
		}
	case !mayApprove(who, held.Roles):
		return a, held, errApprovalRole(held.Roles)
	case held.unreadable:
		return a, held, s.voided(ctx, by, held, a, voidUnreadable)
	}
	return a, held, nil
}

// mayApprove holds for who has one of the roles that policy named.
func mayApprove(who execution.Principal, roles []string) bool {
	return slices.ContainsFunc(roles, func(role string) bool { return who.Has(execution.Role(role)) })
}

// approve resumes what r approves, unless it is already known that it may not run.
func (s *Service) approve(ctx context.Context, r *resumed) (Settled, error) {
	why, err := s.mayAsk(ctx, r.held.Principal)
	if err == nil && why == "" && r.held.Request.Session == "" { // in a session it is the session's
		why, err = s.sameImage(ctx, r.held)
	}
	pending := r.approval
	pending.State = execution.ApprovalPending
	if err != nil {
		return Settled{}, err
	}
	if why != "" {
		return Settled{}, s.voided(ctx, r.by, r.held, pending, why)
	}
	r.approval.State = execution.ApprovalApproved
	// Until it is decided nobody else settles it, whether who approves is still there
	// or not.
	st, err := s.resume(context.WithoutCancel(ctx), r)
	s.changed.tell()
	switch why := voidOf(err); {
	case err != nil && r.claimed:
		s.conclude(ctx, Call{resumed: r}, StateReserved) // unless that was done
		return Settled{}, err
	case why != "":
		return Settled{}, s.voided(ctx, r.by, r.held, pending, why)
	case err != nil:
		return Settled{}, err
	}
	now, err := s.settledNow(ctx, r.approval)
	now.Execution = st
	return now, err
}

// voided voids a, and is the error that says so.
func (s *Service) voided(ctx context.Context, by Call, held heldRequest, a StoredApproval, why string) error {
	if err := s.void(ctx, by, held, a, why); err != nil {
		return err
	}
	return &execution.Error{
		Kind: execution.KindGone, Code: "approval_voided", Detail: "the approval is voided: " + voids[why],
		Reasons: []execution.Reason{{Code: why, Message: voids[why], Remediation: "Have it asked for again."}},
	}
}

// sameImage is why the image is not the one that was asked for.
func (s *Service) sameImage(ctx context.Context, held heldRequest) (why string, err error) {
	image, err := s.resolve(ctx, held.Request)
	switch kind := execution.KindOf(err); {
	case err == nil && image.Digest == held.Binding.Image:
		return "", nil
	case err == nil, kind == execution.KindNotFound, kind == execution.KindInvalid:
		return voidImage, nil
	case kind == execution.KindUnavailable:
		return "", engineUnavailable(err, nil)
	}
	return "", internal("resolve image", err)
}

// settledNow is a as it is remembered now, with its execution.
func (s *Service) settledNow(ctx context.Context, a StoredApproval) (Settled, error) {
	now, err := s.loadApproval(ctx, a.ID)
	if err != nil {
		return Settled{}, err
	}
	now.Request = nil
	settled := Settled{Approval: now}
	if row, err := s.load(ctx, a.Execution); err == nil {
		settled.Execution = standingOf(row)
	}
	return settled, nil
}

func (s *Service) loadApproval(ctx context.Context, id string) (a StoredApproval, err error) {
	err = s.approving(ctx, "load approval", func(ctx context.Context) (err error) {
		a, err = s.approvals.Load(ctx, id)
		return err
	})
	return a, err
}

// visible returns the approval called id where it is of who's tenant.
func (s *Service) visible(ctx context.Context, who execution.Principal, id string) (StoredApproval, error) {
	if s.approvals == nil || !execution.ValidID(execution.PrefixApproval, id) {
		return StoredApproval{}, errApprovalNotFound()
	}
	a, err := s.loadApproval(ctx, id)
	if execution.KindOf(err) == execution.KindGone && a.ID != "" {
		err = nil // whoever settles it is told
	}
	if err != nil {
		return StoredApproval{}, err
	}
	if a.Tenant != who.Tenant {
		return StoredApproval{}, errApprovalNotFound()
	}
	return a, nil
}

// busy are the approvals that are being settled.
type busy struct {
	mu sync.Mutex
	of map[string]bool
}

func (b *busy) take(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[id] {
		return false
	}
	if b.of == nil {
		b.of = map[string]bool{}
	}
	b.of[id] = true
	return true
}

func (b *busy) give(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.of, id)
}

func errApprovalNotFound() error {
	return &execution.Error{Kind: execution.KindNotFound, Code: "approval_not_found", Detail: "there is no such approval"}
}

func errApprovalSettled(detail string) error {
	return &execution.Error{Kind: execution.KindConflict, Code: "approval_settled", Detail: detail}
}

func errApprovalExpired() error {
	return &execution.Error{
		Kind: execution.KindGone, Code: "approval_expired", Detail: "nobody approved it in time",
		Reasons: []execution.Reason{{Code: "approval_expired", Message: "nobody approved it in time", Remediation: "Ask again."}},
	}
}

func errApprovalRole(roles []string) error {
	message := "the policy wants it approved by one of the roles " + strings.Join(roles, ", ")
	return &execution.Error{
		Kind: execution.KindDenied, Code: "approval_role", Detail: message,
		Reasons: []execution.Reason{{Code: "approval_role", Message: message, Remediation: "Use a key that has one of them."}},
	}
}

func errApprovalDenied(comment string) error {
	reason := execution.Reason{Code: "approval_denied", Message: "an approver denied it"}
	if comment != "" {
		reason.Message += ": " + comment
	}
	return &execution.Error{Kind: execution.KindDenied, Code: "approval_denied", Detail: "an approver denied it", Reasons: []execution.Reason{reason}}
}
