package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// drainGrace is how long Drain waits for executions it has cancelled: a sandbox
// to be killed and removed, leases to be revoked, the end to be recorded.
const drainGrace = 30 * time.Second

var errDrained = errors.New("the gateway is shutting down")

func errDraining() error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "draining", Detail: "the gateway is shutting down",
		RetryAfter: 5 * time.Second,
	}
}

// refuse lets nobody in from now on, and returns what closes when all are out.
func (a *admission) refuse() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.draining {
		a.draining = true
		a.idle = make(chan struct{})
		a.settle()
	}
	return a.idle
}

func (a *admission) refusing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}

// bound returns a context that also ends when what runs is to be cancelled, or
// when cancel is called; it must be released.
func (a *admission) bound(ctx context.Context) (_ context.Context, cancel context.CancelCauseFunc, release func()) {
	ctx, cancel = context.WithCancelCause(ctx)
	done := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		select {
		case <-a.stop:
			cancel(errDrained)
		case <-done:
		}
	})
	return ctx, cancel, func() {
		close(done)
		owner.Wait()
		cancel(nil)
	}
}

// Drain refuses new executions from now on and waits for those under way, also
// those that are queued. When ctx ends it cancels them and waits until their
// ends are recorded, at most 30 seconds more. Sessions end at once, those in use
// after what uses them. It returns nil where nothing is left.
func (s *Service) Drain(ctx context.Context) error {
	idle := s.admission.refuse()
	s.sessions.stop()
	s.changed.tell() // whoever waits for an approval need not any more
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	s.admission.stopOnce.Do(func() { close(s.admission.stop) })
	late := time.NewTimer(drainGrace)
	defer late.Stop()
	select {
	case <-idle:
		return nil
	case <-late.C:
		running, queued := s.admission.count()
		return fmt.Errorf("drain: %d executions and %d sessions did not end within %v of being cancelled", running+queued, s.sessions.count(), drainGrace)
	}
}
