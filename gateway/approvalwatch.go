package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// The bounds of the watch over pending approvals.
const (
	watchAtMost  = time.Minute // between two looks, also where nothing is due
	watchAtLeast = 100 * time.Millisecond
	watchBatch   = 100
)

// changed tells those who wait that an approval has changed: not which.
type changed struct {
	mu   sync.Mutex
	next chan struct{}
}

// seen returns what closes at the next change.
func (c *changed) seen() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

func (c *changed) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// watchApprovals ends the approvals that nobody gave in time, until ctx ends.
func (s *Service) watchApprovals(ctx context.Context) {
	if s.approvals == nil {
		return
	}
	for {
		change := s.changed.seen()
		wait, err := s.expireDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "what nobody approved in time is not ended", "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-change:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// expireDue ends what is overdue, and returns how long until it is worth another
// look.
func (s *Service) expireDue(ctx context.Context) (wait time.Duration, err error) {
	var due []StoredApproval
	var next time.Time
	now := time.Now()
	err = s.approving(ctx, "read approvals", func(ctx context.Context) (err error) {
		due, next, err = s.approvals.Overdue(ctx, now, watchBatch)
		return err
	})
	wait = watchAtMost
	if err != nil {
		return wait, err
	}
	if !next.IsZero() {
		wait = max(watchAtLeast, min(watchAtMost, next.Sub(now)))
	}
	if len(due) == watchBatch {
		wait = watchAtLeast
	}
	var errs []error
	for _, a := range due {
		if !s.settling.take(a.ID) {
			continue
		}
		errs = append(errs, s.expireOne(ctx, a.ID))
		s.settling.give(a.ID)
	}
	if err := errors.Join(errs...); err != nil {
		return watchAtMost, err
	}
	return wait, nil
}

func (s *Service) expireOne(ctx context.Context, id string) error {
	a, held, err := s.held(ctx, id)
	if err != nil || a.State != execution.ApprovalPending {
		return err
	}
	return s.expire(ctx, a, held)
}

// held returns an approval and what is kept of it. Where that cannot be read any
// more, it is what is shown, and says so.
func (s *Service) held(ctx context.Context, id string) (StoredApproval, heldRequest, error) {
	a, err := s.loadApproval(ctx, id)
	var held heldRequest
	if err == nil && a.State == execution.ApprovalPending && json.Unmarshal(a.Request, &held) == nil {
		a.Request = nil
		return a, held, nil
	}
	if err != nil && (execution.KindOf(err) != execution.KindGone || a.ID == "") {
		return a, held, err
	}
	var about approvalAbout
	_ = json.Unmarshal(a.About, &about) // what cannot be read is not shown
	a.Request = nil
	return a, heldRequest{
		Principal: execution.Principal{Tenant: a.Tenant, Subject: a.Subject}, Binding: about.Binding, Roles: about.Roles,
		unreadable: a.State == execution.ApprovalPending,
	}, nil
}

// expire ends a, which is pending and past its time.
func (s *Service) expire(ctx context.Context, a StoredApproval, held heldRequest) error {
	a.State, a.At = execution.ApprovalExpired, time.Now().UTC().Truncate(time.Millisecond)
	a.Forget, a.Request = a.At.Add(s.keep), nil
	return s.settle(ctx, execution.RecordApprovalExpired, Call{}, held, a, StateExpired, errApprovalExpired())
}

// withdraw voids the approval that the execution called id awaits, on behalf of
// who; the execution ends as cancelled.
func (s *Service) withdraw(ctx context.Context, who execution.Principal, id string) error {
	if s.approvals == nil {
		return executionNotFound()
	}
	var found StoredApproval
	if err := s.approving(ctx, "load approval", func(ctx context.Context) (err error) {
		found, err = s.approvals.ByExecution(ctx, id)
		return err
	}); err != nil {
		return err
	}
	if !s.settling.take(found.ID) {
		return errApprovalSettled("somebody is deciding about its approval right now; ask again")
	}
	defer s.settling.give(found.ID)
	a, held, err := s.held(ctx, found.ID)
	switch {
	case err != nil:
		return err
	case a.State != execution.ApprovalPending:
		return errApprovalSettled("its approval is " + string(a.State) + "; ask again")
	}
	cancelled := Response{ID: id, Result: execution.Result{Outcome: execution.OutcomeCancelled}}
	cancelled.Decision = execution.Decision{Effect: execution.EffectRequireApproval, Revision: held.Binding.Revision}
	body, err := encodeExecution(cancelled)
	if err != nil {
		return internal("encode execution", err)
	}
	a.State, a.Why, a.By = execution.ApprovalVoided, voidWithdrawn, who.Subject
	a.At = time.Now().UTC().Truncate(time.Millisecond)
	a.Forget, a.Request = a.At.Add(s.keep), nil
	return s.settleWith(ctx, execution.RecordApprovalVoided, Call{Principal: who}, held, a, Stored{State: string(StateEnded), Body: body})
}

// voidInterrupted voids the approvals that were given and came to nothing because
// the gateway ended. It is called at start, after what was under way has ended.
func (s *Service) voidInterrupted(ctx context.Context) error {
	if s.approvals == nil {
		return nil
	}
	var left []StoredApproval
	if err := s.approving(ctx, "read approvals", func(ctx context.Context) (err error) {
		left, err = s.approvals.Interrupted(ctx)
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for _, a := range left {
		var about approvalAbout
		_ = json.Unmarshal(a.About, &about) // as in held
		errs = append(errs, s.void(ctx, Call{}, heldRequest{Binding: about.Binding, Roles: about.Roles}, a, voidStopped))
	}
	return errors.Join(errs...)
}
