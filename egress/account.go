package egress

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/scrub"
)

// How many refusals of one execution are recorded: as many as it may make
// requests, within these bounds. A program that is denied thousands of connections
// a second would otherwise fill the log that everybody's records need.
const (
	leastRefusals = 16
	mostRefusals  = 1000
)

// account is what one execution has used of its budget. Every bound of it is
// exact, however many connections there are at once.
type account struct {
	budget execution.NetworkBudget
	bytes  atomic.Int64 // carried or about to be, both ways; never over the budget

	mu          sync.Mutex
	connections int64
	requests    int64
	begun       window
	asked       window // of policy
	refusals    int64  // recorded
	unrecorded  int64
	values      []string // those in secrets
	overheard   int      // bytes of those that are of tools

	secrets atomic.Pointer[scrub.Set] // what was set on requests; nil where nothing was
	leaves  leaves
}

func newAccount(budget execution.NetworkBudget) *account {
	return &account{budget: budget, begun: window{most: budget.RequestsPerS}, asked: window{most: budget.RequestsPerS}}
}

// ask reports whether policy may be asked now. What it denies is not in the budget, and
// each question costs the gateway more than the program that makes it.
func (a *account) ask(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.budget.RequestsPerS <= 0 || a.asked.admit(now) // without a budget begin says so
}

// begin takes one connection out of the budget, or says what is exceeded. Where
// code is empty, release gives its place among the connections at once back.
func (a *account) begin(now time.Time) (code string) {
	b := a.budget
	if min(b.Requests, b.Bytes, b.RequestsPerS, b.Connections) <= 0 {
		return codeBudgetInvalid
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.bytes.Load() >= b.Bytes:
		return codeBytesSpent
	case a.requests >= b.Requests:
		return codeRequestsSpent
	case a.connections >= b.Connections:
		return codeConnectionsExceeded
	case !a.begun.admit(now):
		return codeRateExceeded
	}
	a.requests++
	a.connections++
	return ""
}

func (a *account) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connections--
}

// take takes up to n bytes out of the budget and returns how many.
func (a *account) take(n int64) int64 {
	for {
		used := a.bytes.Load()
		got := min(n, a.budget.Bytes-used)
		if got <= 0 || a.bytes.CompareAndSwap(used, used+got) {
			return max(got, 0)
		}
	}
}

// learn adds values to what must not come back, in any answer to the execution. An
// error says that one of them could not be found there; it must not be used.
func (a *account) learn(values []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return slices.Contains(a.values, v) })
	if len(fresh) == 0 {
		return nil
	}
	set, err := a.secrets.Load().With(fresh...)
	if err != nil {
		return err
	}
	a.values = append(a.values, fresh...)
	a.secrets.Store(set)
	return nil
}

// maxOverheard bounds the values of tools that one execution's answers are searched for,
// in bytes: each call of a tool may be lent other ones.
const maxOverheard = 4 << 10

// overhear adds values that a tool was lent which the program calls, as far as there is
// room: what the tool leaves behind with them the program may find by itself.
func (a *account) overhear(values []string) {
	for _, v := range values {
		a.mu.Lock()
		fits := !slices.Contains(a.values, v) && a.overheard+len(v) <= maxOverheard
		if fits {
			a.overheard += len(v)
		}
		a.mu.Unlock()
		if fits {
			_ = a.learn([]string{v}) // it was learned by the tool's own account, so that it can be found
		}
	}
}

// spells reports whether a header's name spells one of the values. net/http has changed
// the case of its letters.
func (a *account) spells(name string) bool {
	if a.known() == nil {
		return false
	}
	name = strings.ToLower(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.values, func(v string) bool { return strings.Contains(name, strings.ToLower(v)) })
}

// known is what must not come back; nil where that is nothing.
func (a *account) known() *scrub.Set { return a.secrets.Load() }

// refuse counts one refusal and returns the code to record it with; empty where
// it is only counted.
func (a *account) refuse(code string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	bound := min(max(a.budget.Requests, leastRefusals), mostRefusals)
	switch {
	case a.refusals < bound:
		a.refusals++
		return code
	case a.refusals == bound:
		a.refusals++
		return codeRefusalsSpent
	}
	a.unrecorded++
	return ""
}

// usage is what was used until now.
func (a *account) usage() Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Usage{Requests: a.requests, Bytes: a.bytes.Load(), Unrecorded: a.unrecorded}
}

// window admits at most `most` in any second.
type window struct {
	most  int64
	begun []time.Time // of the last second, the oldest first
}

func (w *window) admit(now time.Time) bool {
	if n := len(w.begun); n > 0 && now.Before(w.begun[n-1]) {
		now = w.begun[n-1] // who read the clock first need not come first
	}
	// Past half of its room what is over is dropped at once, so that admitting
	// stays cheap with a rate of thousands.
	old, _ := slices.BinarySearchFunc(w.begun, now.Add(-time.Second), func(at, limit time.Time) int {
		if at.After(limit) {
			return 1
		}
		return -1
	})
	if int64(len(w.begun)-old) >= w.most {
		return false
	}
	if old > len(w.begun)/2 {
		w.begun = append(w.begun[:0], w.begun[old:]...)
	}
	w.begun = append(w.begun, now)
	return true
}
