package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// sessionGrace is how long what uses a session has to end once the session is to
// end. After that its sandbox is ended around it.
const sessionGrace = 10 * time.Second

var errEnding = errors.New("the session ends")

// session is one that is open: from before its sandbox is asked for until its end
// is recorded. It has one keeper, which ends it; everybody else only says that it
// is to end.
type session struct {
	id       string
	language string // empty: its executions are commands
	image    string // by name
	grant    execution.Grant
	asked    Call // what opened it

	changed chan struct{} // holds one token: something of what the keeper waits for has changed
	files   chan struct{} // holds one token while a file is accessed: one at a time
	done    chan struct{} // closed when its end is recorded, and err is set
	err     error         // why its end is not recorded

	mu         sync.Mutex
	created    time.Time               // zero while it is being opened
	expires    time.Time               // it ends then, whatever it does
	idle       time.Time               // it ends then, where nothing uses it
	uses       int                     // executions and file accesses under way
	executing  bool                    // the use is an execution
	cancel     context.CancelCauseFunc // of that execution
	executions int                     // that have run
	why        execution.SessionEnd    // not empty: it is to end, and takes no further use
	by         Call                    // who said so
	given      []execution.Exposed     // to programs in it, which may have kept it
}

func newSession(id, image string, call Call, grant execution.Grant) *session {
	return &session{
		id: id, language: call.Request.Language, image: image, grant: grant, asked: call,
		changed: make(chan struct{}, 1), files: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// start lets it be used, and its time begin.
func (o *session) start(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.created = now
	o.expires = now.Add(time.Duration(o.grant.Session.AbsoluteS) * time.Second)
	o.idle = now.Add(time.Duration(o.grant.Session.IdleS) * time.Second)
}

func (o *session) started() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.created.IsZero()
}

// use begins a use, which must leave again. Where it is an execution, cancel ends
// it, and it has the session for itself; accesses to files stand side by side.
func (o *session) use(cancel context.CancelCauseFunc) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.why == execution.SessionStopped:
		return errDraining()
	case o.why != "":
		return errSessionEnded(o.why)
	case o.executing, cancel != nil && o.uses > 0:
		return errSessionBusy()
	}
	o.uses++
	if cancel != nil {
		o.executing, o.cancel = true, cancel
	}
	o.wake()
	return nil
}

// leave ends a use: of an execution, where executed says whether it was allowed.
func (o *session) leave(execution, executed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.uses--
	if execution {
		o.executing, o.cancel = false, nil
	}
	if executed {
		o.executions++
	}
	o.idle = time.Now().Add(time.Duration(o.grant.Session.IdleS) * time.Second)
	o.wake()
}

// end says that it is to end, and cancels what runs in it. The first reason
// counts.
func (o *session) end(why execution.SessionEnd, by Call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked(why, by)
	if o.cancel != nil {
		o.cancel(errEnding)
	}
}

// stop says that it is to end when nothing uses it any more.
func (o *session) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked(execution.SessionStopped, Call{})
}

func (o *session) endLocked(why execution.SessionEnd, by Call) {
	if o.why == "" {
		o.why, o.by = why, by
	}
	o.wake()
}

func (o *session) wake() {
	select {
	case o.changed <- struct{}{}:
	default: // the keeper will look anyway
	}
}

// ending is why it is to end; empty where it is not.
func (o *session) ending() (why execution.SessionEnd, by Call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.why, o.by
}

// await returns when it is to end, which may be because its time is up.
func (o *session) await() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left, over := o.left(time.Now())
		if over {
			return
		}
		timer.Reset(left)
		select {
		case <-timer.C:
		case <-o.changed:
		}
	}
}

// left is how long it goes on if nothing happens; over where it is to end.
func (o *session) left(now time.Time) (left time.Duration, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	until, why := o.expires, execution.SessionExpired
	if o.uses == 0 && o.idle.Before(until) {
		until, why = o.idle, execution.SessionIdle
	}
	if o.why == "" && !now.Before(until) {
		o.endLocked(why, Call{})
		if o.cancel != nil {
			o.cancel(errEnding)
		}
	}
	return until.Sub(now), o.why != ""
}

// settle returns when nothing uses it any more, or what does has had its time.
// At a stop of the gateway that begins when cancelled closes.
func (o *session) settle(cancelled <-chan struct{}) {
	grace := time.NewTimer(sessionGrace)
	defer grace.Stop()
	if why, _ := o.ending(); why == execution.SessionStopped {
		grace.Stop()
	} else {
		cancelled = nil
	}
	for o.used() {
		select {
		case <-o.changed:
		case <-cancelled:
			cancelled = nil
			grace.Reset(sessionGrace)
		case <-grace.C:
			return
		}
	}
}

func (o *session) used() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.uses > 0
}

// sessions are those that are open, and the places for them.
type sessions struct {
	max int

	mu       sync.Mutex
	stopping bool
	places   int            // taken by those that are open, or asked for
	tenants  map[string]int // tenant -> open
	of       map[string]*session
}

func newSessions(max int) *sessions {
	return &sessions{max: max, tenants: map[string]int{}, of: map[string]*session{}}
}

// enter takes a place, before anything is decided; leave gives it back.
func (t *sessions) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.places >= t.max {
		return errSessionsSaturated("as many sessions as the gateway allows are open")
	}
	t.places++
	return nil
}

func (t *sessions) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.places--
}

// add counts o, which has a place, among its tenant's, of which there may be most.
func (t *sessions) add(o *session, most int64) error {
	tenant := o.asked.Principal.Tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopping:
		return errDraining()
	case int64(t.tenants[tenant]) >= most:
		return errSessionsSaturated("as many sessions as the policy grants to this tenant are open; delete one")
	}
	t.tenants[tenant]++
	t.of[o.id] = o
	return nil
}

func (t *sessions) remove(o *session) {
	tenant := o.asked.Principal.Tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tenants[tenant]--; t.tenants[tenant] == 0 {
		delete(t.tenants, tenant)
	}
	delete(t.of, o.id)
}

// get returns nil where there is none.
func (t *sessions) get(id string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[id]
}

func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*session, 0, len(t.of))
	for _, o := range t.of {
		all = append(all, o)
	}
	return all
}

func (t *sessions) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.of)
}

// stop ends all sessions, each when nothing uses it any more, and lets none be
// added.
func (t *sessions) stop() {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
	for _, o := range t.all() {
		o.stop()
	}
}
