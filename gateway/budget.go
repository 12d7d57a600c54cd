package gateway

import (
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// budgets count what tenants, and each of their principals, use: what policy reads
// as counters. They are exact: an execution counts from before policy is asked
// about it until it ends, or is denied, so that of any number of callers at once
// each sees those before it, and never more come through than a rule lets.
type budgets struct {
	mu         sync.Mutex
	tenants    map[string]*account
	principals map[execution.Owner]*account
	swept      time.Time
}

func newBudgets() *budgets {
	return &budgets{tenants: map[string]*account{}, principals: map[execution.Owner]*account{}}
}

// account is what one tenant, or one principal, has used.
type account struct {
	running    int64
	executions window // of a minute
	cpuMS      window // of an hour, as are the others
	egress     window
	leases     window
}

func newAccount() *account {
	const fine, coarse = time.Second, time.Minute // 60 of them make a window
	return &account{
		executions: window{step: fine}, cpuMS: window{step: coarse},
		egress: window{step: coarse}, leases: window{step: coarse},
	}
}

func (a *account) counters(now time.Time) execution.Counters {
	return execution.Counters{
		Running: a.running, Executions1M: a.executions.sum(now), CPUMS1H: a.cpuMS.sum(now),
		EgressBytes1H: a.egress.sum(now), Leases1H: a.leases.sum(now),
	}
}

// idle reports whether forgetting the account loses nothing.
func (a *account) idle(now time.Time) bool { return a.counters(now) == execution.Counters{} }

// seen is what policy is told of both.
type seen struct{ tenant, principal execution.Counters }

// charge is one execution that counts. The zero charge counts nothing.
type charge struct {
	budgets *budgets
	owner   execution.Owner
	at      time.Time
	leases  int64 // that it may be lent
	seen    seen  // before it
}

// see returns the counters, and counts nothing.
func (b *budgets) see(owner execution.Owner, now time.Time) seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s seen
	if a := b.tenants[owner.Tenant]; a != nil {
		s.tenant = a.counters(now)
	}
	if a := b.principals[owner]; a != nil {
		s.principal = a.counters(now)
	}
	return s
}

// charge counts one more execution, until it is given back or has ended. The leases
// that it asks for count at once, since they are lent only when it has been let through,
// and those that it was not lent are taken off at its end.
func (b *budgets) charge(owner execution.Owner, now time.Time, leases int) *charge {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now)
	tenant, principal := b.accounts(owner)
	c := &charge{
		budgets: b, owner: owner, at: now, leases: int64(leases),
		seen: seen{tenant.counters(now), principal.counters(now)},
	}
	for _, a := range []*account{tenant, principal} {
		a.running++
		a.executions.add(now, 1)
		a.leases.add(now, c.leases)
	}
	return c
}

// accounts are those of an owner, which are made where there are none.
func (b *budgets) accounts(owner execution.Owner) (tenant, principal *account) {
	tenant, principal = b.tenants[owner.Tenant], b.principals[owner]
	if tenant == nil {
		tenant = newAccount()
		b.tenants[owner.Tenant] = tenant
	}
	if principal == nil {
		principal = newAccount()
		b.principals[owner] = principal
	}
	return tenant, principal
}

// giveBack undoes the charge of what was not allowed.
func (c *charge) giveBack() {
	c.budgets.mu.Lock()
	defer c.budgets.mu.Unlock()
	tenant, principal := c.budgets.accounts(c.owner)
	for _, a := range []*account{tenant, principal} {
		a.running--
		a.executions.add(c.at, -1)
		a.leases.add(c.at, -c.leases)
	}
}

// end is the end of an execution that was allowed, used so much, and was lent so many
// leases.
func (c *charge) end(now time.Time, used execution.Usage, lent int) {
	c.budgets.mu.Lock()
	defer c.budgets.mu.Unlock()
	tenant, principal := c.budgets.accounts(c.owner)
	for _, a := range []*account{tenant, principal} {
		a.running--
		a.cpuMS.add(now, max(used.CPUMS, 0))
		a.egress.add(now, max(used.EgressBytes, 0))
		if unused := c.leases - int64(lent); unused > 0 {
			a.leases.add(c.at, -unused)
		} else if unused < 0 {
			a.leases.add(now, -unused)
		}
	}
}

// sweep forgets those who have used nothing of late, so that what is remembered is
// bounded by who is active.
func (b *budgets) sweep(now time.Time) {
	if now.Sub(b.swept) < time.Minute {
		return
	}
	b.swept = now
	for name, a := range b.tenants {
		if a.idle(now) {
			delete(b.tenants, name)
		}
	}
	for owner, a := range b.principals {
		if a.idle(now) {
			delete(b.principals, owner)
		}
	}
}

// recall counts what a record says of an earlier life of the gateway. Executions
// that were open are not running any more. Records come in any order.
func (b *budgets) recall(r execution.Record, now time.Time) {
	if r.Principal == nil || r.Execution == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	tenant, principal := b.accounts(r.Principal.Owner())
	for _, a := range []*account{tenant, principal} {
		switch {
		case r.Decided != nil && r.Decided.Decision.Allowed():
			a.executions.recall(r.Time, now, 1)
		case r.Ended != nil:
			a.cpuMS.recall(r.Time, now, max(r.Ended.Usage.CPUMS, 0))
			a.egress.recall(r.Time, now, max(r.Ended.Usage.EgressBytes, 0))
		case r.Type == execution.RecordLeaseIssued:
			a.leases.recall(r.Time, now, 1)
		}
	}
}

// steps is how many a window has.
const steps = 60

// window sums what was added within its last steps, and within the one that is
// under way: it forgets too late by up to a step, and never too early.
type window struct {
	step   time.Duration
	latest int64 // the number of the step that was last added to
	sums   [steps + 1]int64
}

func (w *window) number(at time.Time) int64 { return at.UnixNano() / int64(w.step) }

// add adds n at a time, which need not be the latest. What was added before the window
// cannot be taken back any more.
func (w *window) add(at time.Time, n int64) {
	number := w.number(at)
	switch {
	case n < 0 && number <= w.latest-int64(len(w.sums)):
		return
	case n < 0:
		number = min(number, w.latest)
	case number > w.latest:
		w.forward(number)
	default:
		w.back(number)
	}
	w.sums[number%int64(len(w.sums))] += n
}

// recall adds n at a time that was before now, in any order. What is before the window
// is over, and says nothing about the clock; what is after now was written by one that
// was ahead.
func (w *window) recall(at, now time.Time, n int64) {
	if number := w.number(now); number > w.latest {
		w.forward(number)
	}
	number := min(w.number(at), w.latest)
	if number > w.latest-int64(len(w.sums)) {
		w.sums[number%int64(len(w.sums))] += n
	}
}

// back begins the step called number where that is before the window: the clock was
// ahead and is set back. What was counted counts from now on, as nobody knows since when.
func (w *window) back(number int64) {
	if number > w.latest-int64(len(w.sums)) {
		return
	}
	var total int64
	for i, n := range w.sums {
		total, w.sums[i] = total+n, 0
	}
	w.latest = number
	w.sums[number%int64(len(w.sums))] = total
}

// forward begins the step called number: what stands in the places of those that
// are over is dropped.
func (w *window) forward(number int64) {
	for n := max(w.latest+1, number-int64(len(w.sums))+1); n <= number; n++ {
		w.sums[n%int64(len(w.sums))] = 0
	}
	w.latest = number
}

func (w *window) sum(now time.Time) (total int64) {
	if number := w.number(now); number > w.latest {
		w.forward(number)
	} else {
		w.back(number)
	}
	for _, n := range w.sums {
		total += n
	}
	return max(total, 0)
}
