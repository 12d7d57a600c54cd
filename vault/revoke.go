package vault

import (
	"context"
	"errors"
	"time"

	"github.com/execgate/execgate/execution"
)

// remembered is how long a loan that is over is remembered, so that Revoke may be
// called again.
const remembered = time.Minute

// Revoke takes back whatever was lent to the execution and returns the leases as
// they are then. It has no error: what could not be ended has Revoked false, is in
// the journal, and Run goes on trying.
func (v *Vault) Revoke(ctx context.Context, executionID string) ([]execution.Lease, error) {
	n := v.find(executionID)
	if n == nil {
		return nil, nil
	}
	n.close()
	// Those that are found to be half made while this waits for them are added.
	for done := 0; ; {
		tokens := n.all()
		if done == len(tokens) {
			break
		}
		for _, t := range tokens[done:] {
			v.retry(ctx, t)
		}
		done = len(tokens)
	}
	v.forget(n)
	return n.leases(), nil
}

// retry ends the token, waiting for whoever is at it.
func (v *Vault) retry(ctx context.Context, t *token) {
	if t.take(ctx) != nil {
		// Run waits longer. At the end of Run the next start finds it in the journal.
		v.schedule.at(time.Now(), func(ctx context.Context) { v.again(ctx, t) })
		return
	}
	defer t.release()
	v.finish(ctx, t)
}

// again is retry for the schedule.
func (v *Vault) again(ctx context.Context, t *token) {
	if t.take(ctx) != nil {
		return
	}
	t.next = nil
	v.finish(ctx, t)
	t.release()
	v.forget(t.loan)
}

// expire ends a token whose time is over.
func (v *Vault) expire(ctx context.Context, t *token) {
	if t.take(ctx) != nil {
		return
	}
	t.expiry = nil
	v.finish(ctx, t)
	t.release()
	v.forget(t.loan)
}

// finish ends the token at Vault, records that, and has the journal forget it, as
// far as that is not done. It is called with t locked. What fails is tried again.
func (v *Vault) finish(ctx context.Context, t *token) {
	n := t.loan
	n.mu.Lock()
	for _, l := range t.leases {
		l.over = true
		l.fields = nil
	}
	n.mu.Unlock()
	if !t.begun {
		return
	}
	err := v.finishAtVault(ctx, t)
	if err == nil {
		err = v.finishRecords(ctx, t)
	}
	if err == nil {
		err = v.journal(ctx, func(ctx context.Context) error { return v.cfg.Journal.End(ctx, t.entry.ID) })
	}
	if err != nil {
		v.failed(ctx, t, err)
		return
	}
	t.begun = false
	v.schedule.drop(t.expiry)
	v.schedule.drop(t.next)
	t.expiry, t.next = nil, nil
	if t.pending {
		t.pending = false
		v.pending.Add(-1)
	}
}

func (v *Vault) finishAtVault(ctx context.Context, t *token) error {
	if t.ended {
		return nil
	}
	if err := v.endAtVault(ctx, t); err != nil {
		return err
	}
	t.ended, t.value = true, execution.Secret{}
	v.alive.Store(time.Now().UnixNano())
	n := t.loan
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range t.leases {
		if l.issued {
			l.public.Revoked = true
			v.revoked.Add(1)
		}
	}
	return nil
}

func (v *Vault) finishRecords(ctx context.Context, t *token) error {
	for _, l := range t.leases {
		if l.told || !l.isIssued() {
			continue
		}
		if err := v.record(ctx, l.record(execution.RecordLeaseRevoked, l.change())); err != nil {
			return err
		}
		l.told = true
	}
	return nil
}

// failed sees to it that the end is tried again, and recorded where it is not the
// token that is left but only the record of its end.
func (v *Vault) failed(ctx context.Context, t *token, err error) {
	t.failures++
	v.failures.Add(1)
	if !t.pending {
		t.pending = true
		v.pending.Add(1)
	}
	wait := backoff(t.failures)
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Code == CodeRateLimited {
		wait = max(wait, min(e.RetryAfter, maxBackoff))
	}
	v.cfg.Logger.WarnContext(ctx, "token not ended", "execution", t.loan.id, "error", err, "failures", t.failures, "again_in", wait)
	if code := codeOf(err); !t.ended && code != t.reason {
		for _, l := range t.leases {
			if !l.isIssued() {
				continue
			}
			change := l.change()
			change.Error = code
			if err := v.record(ctx, l.record(execution.RecordLeaseRevoked, change)); err != nil {
				v.cfg.Logger.ErrorContext(ctx, "failed revocation not recorded", "execution", t.loan.id, "error", err)
				continue
			}
			t.reason = code
		}
	}
	if t.next == nil {
		t.next = v.schedule.at(time.Now().Add(wait), func(ctx context.Context) { v.again(ctx, t) })
	}
}

// disown takes what a make that failed has left from the token, so that it can be
// made anew, and ends it by itself. It is called with t locked.
func (v *Vault) disown(ctx context.Context, t *token) {
	if !t.begun {
		return
	}
	half := &token{loan: t.loan, lock: make(chan struct{}, 1), entry: t.entry, begun: true, ended: t.ended}
	t.begun, t.ended, t.entry, t.value = false, false, Entry{}, execution.Secret{}
	n := t.loan
	n.mu.Lock()
	n.tokens = append(n.tokens, half)
	n.mu.Unlock()
	if half.ended {
		v.retry(context.WithoutCancel(ctx), half) // there is only the journal to tell
		return
	}
	v.schedule.at(time.Now(), func(ctx context.Context) { v.again(ctx, half) })
}

// forget has a loan that is over forgotten, in a while.
func (v *Vault) forget(n *loan) {
	for _, t := range n.all() {
		select {
		case t.lock <- struct{}{}:
			left := t.begun
			t.release()
			if left {
				return
			}
		default:
			return // whoever is at it comes here later
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed || n.going {
		return
	}
	n.going = true
	v.schedule.at(time.Now().Add(remembered), func(context.Context) {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.loans, n.id)
	})
}
