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

// admission bounds the executions under way. An execution is admitted before
// anything is allocated for it.
type admission struct {
	max int

	mu       sync.Mutex
	draining bool
	running  int
	tenants  map[string]int // tenant -> executions under way
	idle     chan struct{}  // not nil while draining; closed when nothing runs

	// stop is closed to cancel what is still running.
	stop     chan struct{}
	stopOnce sync.Once
}

func newAdmission(max int) *admission {
	return &admission{max: max, tenants: map[string]int{}, stop: make(chan struct{})}
}

// enter admits one execution of tenant, which must leave again, and returns how
// many others of that tenant are under way.
func (a *admission) enter(tenant string) (others int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return 0, &execution.Error{
			Kind: execution.KindUnavailable, Code: "draining", Detail: "the gateway is shutting down",
			RetryAfter: 5 * time.Second,
		}
	}
	if a.running >= a.max {
		return 0, &execution.Error{
			Kind: execution.KindSaturated, Code: "executions_saturated",
			Detail: "as many executions as the gateway allows are under way", RetryAfter: time.Second,
		}
	}
	others = a.tenants[tenant]
	a.running++
	a.tenants[tenant]++
	return others, nil
}

func (a *admission) leave(tenant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	if a.tenants[tenant]--; a.tenants[tenant] == 0 {
		delete(a.tenants, tenant) // tenants come and go; the map must not only grow
	}
	if a.draining && a.running == 0 {
		close(a.idle)
	}
}

func (a *admission) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

// refuse lets nobody in from now on, and returns what closes when all are out.
func (a *admission) refuse() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.draining {
		a.draining = true
		a.idle = make(chan struct{})
		if a.running == 0 {
			close(a.idle)
		}
	}
	return a.idle
}

func (a *admission) refusing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}

// bound returns a context that also ends when what runs is to be cancelled.
func (a *admission) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		select {
		case <-a.stop:
			cancel(errDrained)
		case <-done:
		}
	})
	return ctx, func() {
		close(done)
		owner.Wait()
		cancel(nil)
	}
}

var errDrained = errors.New("the gateway is shutting down")

// Drain refuses new executions from now on and waits for those under way. When
// ctx ends it cancels them and waits until their ends are recorded, at most 30
// seconds more. It returns nil where nothing is left running.
func (s *Service) Drain(ctx context.Context) error {
	idle := s.admission.refuse()
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
		return fmt.Errorf("drain: %d executions did not end within %v of being cancelled", s.admission.count(), drainGrace)
	}
}
