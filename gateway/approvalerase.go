package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// erasureReach is how long an erasure is remembered: more than lies between the decision
// that a request needs approval, and that it is kept.
const erasureReach = time.Minute

// erasures remembers the latest erasures, for what was decided before them and is kept
// only afterwards.
type erasures struct {
	mu   sync.Mutex
	made []erasureMade
}

type erasureMade struct {
	which execution.Erasure
	by    Call
	at    time.Time
}

func (e *erasures) add(which execution.Erasure, by Call, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made = append(slices.DeleteFunc(e.made, func(m erasureMade) bool { return at.Sub(m.at) > erasureReach }), erasureMade{which, by, at})
}

// of returns who has erased a since it was asked for.
func (e *erasures) of(a StoredApproval) (by Call, erased bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.made {
		w := m.which
		if !a.Created.After(m.at) && (w.Execution == "" || w.Execution == a.Execution) && (w.Tenant == "" || w.Tenant == a.Tenant) &&
			(w.Subject == "" || w.Subject == a.Subject) && (w.Before == nil || a.Created.Before(*w.Before)) {
			return m.by, true
		}
	}
	return Call{}, false
}

// pendingApprovals counts those that are pending and that an erasure selects.
func (s *Service) pendingApprovals(ctx context.Context, which execution.Erasure) (int, error) {
	selected, err := s.selectedApprovals(ctx, which)
	return len(selected), err
}

func (s *Service) selectedApprovals(ctx context.Context, which execution.Erasure) (selected []StoredApproval, err error) {
	if s.approvals == nil {
		return nil, nil
	}
	err = s.approving(ctx, "read approvals", func(ctx context.Context) (err error) {
		selected, err = s.approvals.Selected(ctx, which)
		return err
	})
	return selected, err
}

// eraseApprovals voids the approvals that are pending and selected, on behalf of by, and
// has their requests leave every file: also of what is on its way to be kept. The erasure
// is recorded before. It may be called again where it fails.
func (s *Service) eraseApprovals(ctx context.Context, by Call, which execution.Erasure) error {
	if s.approvals == nil {
		return nil
	}
	s.erasures.add(which, by, time.Now())
	selected, err := s.selectedApprovals(ctx, which)
	if err != nil {
		return err
	}
	left := false
	for _, a := range selected {
		done, err := s.eraseApproval(ctx, by, a)
		if err != nil {
			return err
		}
		left = left || !done
	}
	if err := s.shred(ctx); err != nil {
		return err
	}
	if left {
		return &execution.Error{
			Kind: execution.KindUnavailable, Code: "erasure_unfinished", RetryAfter: time.Second,
			Detail: "somebody is deciding about an approval right now: erase again",
		}
	}
	return nil
}

// eraseApproval voids a, unless it is being settled now, or was.
func (s *Service) eraseApproval(ctx context.Context, by Call, a StoredApproval) (done bool, err error) {
	if !s.settling.take(a.ID) {
		return false, nil
	}
	defer s.settling.give(a.ID)
	a, held, err := s.held(ctx, a.ID)
	if err != nil {
		return false, err
	}
	if a.State != execution.ApprovalPending {
		return true, nil
	}
	return true, s.void(ctx, by, held, a, voidErased)
}

// shred is not bounded as other work on approvals is: it waits for who reads.
func (s *Service) shred(ctx context.Context) (err error) {
	defer s.recovered("shred approvals", &err)
	return s.approvals.Shred(ctx)
}

// eraseParked voids a, which is kept now, where it was erased meanwhile.
func (s *Service) eraseParked(ctx context.Context, a StoredApproval) error {
	by, erased := s.erasures.of(a)
	if !erased {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eraseTimeout)
	defer cancel()
	if _, err := s.eraseApproval(ctx, by, a); err != nil {
		return err
	}
	return s.shred(ctx)
}

// VoidErased returns what an erasure by who makes of a pending approval, where no gateway
// runs: the record, which comes first, and then how the approval stands and its execution
// ends. Both are remembered for keep.
func VoidErased(by execution.Principal, a StoredApproval, keep time.Duration) (execution.Record, StoredApproval, Stored, error) {
	var about approvalAbout
	_ = json.Unmarshal(a.About, &about) // as in held
	a.State, a.Why, a.By, a.Request = execution.ApprovalVoided, voidErased, by.Subject, nil
	a.At = time.Now().UTC().Truncate(time.Millisecond)
	a.Forget = a.At.Add(keep)
	body, err := json.Marshal(problemOf(errVoided(voidErased), "", a.Execution))
	record := recordOf(execution.RecordApprovalVoided, Call{Principal: by}, a.Execution)
	record.Approval = &execution.ApprovalChange{ID: a.ID, Binding: about.Binding, Expires: a.Expires, Roles: about.Roles, Why: voidErased}
	end := Stored{ID: a.Execution, State: string(StateDenied), Body: body, Events: lostEvents, Expires: a.Forget}
	return record, a, end, err
}
