package gateway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// admission bounds the executions under way. An execution is admitted before
// anything is allocated for it.
//
// Of the slots, some are reserved, each for one tenant; the others are shared.
// A tenant runs in its own reserved slots first, and as many of its executions as
// it has reserved slots are queued even where the queue is full.
type admission struct {
	max, maxQueued int
	reserved       map[string]int // tenant -> slots that only it may use
	shared         int            // the slots that are reserved for nobody
	open           chan struct{}  // closed: the ready of those who need not wait

	mu       sync.Mutex
	draining bool
	running  int
	inShared int            // executions that run in shared slots
	tenants  map[string]int // tenant -> executions that run
	queue    []*place       // in the order they came
	held     int            // see hold
	idle     chan struct{}  // not nil while draining; closed when nothing is left

	// stop is closed to cancel what is still running.
	stop     chan struct{}
	stopOnce sync.Once
}

// place is that of one execution: in the queue until ready is closed, and then
// in a slot.
type place struct {
	tenant string
	ready  chan struct{}
}

func newAdmission(max, maxQueued int, reserved map[string]int) *admission {
	a := &admission{
		max: max, maxQueued: maxQueued, reserved: maps.Clone(reserved), shared: max,
		tenants: map[string]int{}, open: make(chan struct{}), stop: make(chan struct{}),
	}
	close(a.open)
	for _, n := range reserved {
		a.shared -= n
	}
	return a
}

// enter gives one execution of tenant its place, which it must leave again. One
// that cannot run at once is queued where it may be, and otherwise refused.
func (a *admission) enter(tenant string, mayQueue bool) (*place, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return nil, errDraining()
	}
	p := &place{tenant: tenant}
	waiting := 0
	for _, other := range a.queue {
		if other.tenant == tenant {
			waiting++
		}
	}
	// Nobody is overtaken: whoever waits does so because they do not fit.
	switch {
	case a.fits(tenant):
		p.ready = a.open
		a.seat(p)
	case mayQueue && (len(a.queue) < a.maxQueued || waiting < a.reserved[tenant]):
		p.ready = make(chan struct{})
		a.queue = append(a.queue, p)
	case mayQueue:
		return nil, &execution.Error{
			Kind: execution.KindSaturated, Code: "queue_full",
			Detail: "as many executions as the gateway queues are waiting", RetryAfter: 5 * time.Second,
		}
	default:
		return nil, &execution.Error{
			Kind: execution.KindSaturated, Code: "executions_saturated",
			Detail: "as many executions as the gateway allows are under way", RetryAfter: time.Second,
		}
	}
	return p, nil
}

// fits reports whether there is a slot for one more execution of tenant.
func (a *admission) fits(tenant string) bool {
	return a.tenants[tenant] < a.reserved[tenant] || a.inShared < a.shared
}

// seat puts p, which fits, into a slot.
func (a *admission) seat(p *place) {
	if a.tenants[p.tenant] >= a.reserved[p.tenant] {
		a.inShared++
	}
	a.running++
	a.tenants[p.tenant]++
}

// wait returns when p has a slot, or when ctx ends.
func (p *place) wait(ctx context.Context) {
	select {
	case <-p.ready:
	case <-ctx.Done():
	}
}

// leave gives up p and seats those who wait and now fit.
func (a *admission) leave(p *place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-p.ready:
		a.running--
		if a.tenants[p.tenant] > a.reserved[p.tenant] {
			a.inShared--
		}
		if a.tenants[p.tenant]--; a.tenants[p.tenant] == 0 {
			delete(a.tenants, p.tenant) // tenants come and go; the map must not only grow
		}
		a.queue = slices.DeleteFunc(a.queue, func(next *place) bool {
			if !a.fits(next.tenant) {
				return false
			}
			a.seat(next)
			close(next.ready)
			return true
		})
	default:
		a.queue = slices.DeleteFunc(a.queue, func(waiting *place) bool { return waiting == p })
	}
	a.settle()
}

// hold keeps Drain waiting until it is dropped again: for work around an
// execution, such as keeping its result.
func (a *admission) hold() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return errDraining()
	}
	a.held++
	return nil
}

func (a *admission) drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held--
	a.settle()
}

// settle tells Drain when nothing is left.
func (a *admission) settle() {
	if a.draining && a.running+len(a.queue)+a.held == 0 {
		close(a.idle)
	}
}

// count returns how many run, and how many wait.
func (a *admission) count() (running, queued int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running, len(a.queue)
}
