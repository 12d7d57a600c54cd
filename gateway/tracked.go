package gateway

import (
	"context"
	"sync"

	"github.com/execgate/execgate/execution"
)

// State is how far an execution has come.
type State string

// The states. StateFailed is shown to callers as ended, with a problem in the
// place of a result.
const (
	StateReserved State = "reserved" // asked for; not decided, and shown to nobody
	StateAwaiting State = "awaiting_approval"
	StateQueued   State = "queued" // allowed, and waits for a slot
	StateRunning  State = "running"
	StateEnded    State = "ended"
	StateFailed   State = "failed"
	StateDenied   State = "denied"
	// StateExpired: ended, and its result was given up to make room; or, where it has
	// a problem, that it was not approved in time.
	StateExpired State = "expired"
)

// over reports whether nothing more happens in the state.
func (s State) over() bool {
	return s != StateReserved && s != StateAwaiting && s != StateQueued && s != StateRunning
}

// tracked is one execution under way, for those who ask about it.
type tracked struct {
	id    string
	owner execution.Principal
	feed  *feed         // nil where nobody can follow it
	begun chan struct{} // closed when it is decided, or refused; nil where it was before it was tracked
	done  chan struct{} // closed when it is over

	mu      sync.Mutex
	state   State
	outcome execution.Outcome
	body    []byte
	err     error // why it was refused before it was decided
	cancel  context.CancelCauseFunc
}

func newTracked(id string, owner execution.Principal) *tracked {
	return &tracked{id: id, owner: owner, state: StateReserved, begun: make(chan struct{}), done: make(chan struct{})}
}

// attended is an execution whose caller waits for it, and that has been allowed.
func attended(id string, owner execution.Principal) *tracked {
	return &tracked{id: id, owner: owner, state: StateRunning, done: make(chan struct{})}
}

// enter goes on to queued or running.
func (t *tracked) enter(state State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.decided()
	t.state = state
}

// finish is the end of it: state is over, or StateReserved with the error that
// refused it before it was decided. The first end counts.
func (t *tracked) finish(state State, outcome execution.Outcome, body []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
		return
	default:
	}
	t.decided()
	t.state, t.outcome, t.body, t.err = state, outcome, body, err
	close(t.done)
}

// decided lets those go on who wait until it is decided, or refused.
func (t *tracked) decided() {
	if t.begun != nil && (t.state == StateReserved || t.state == StateAwaiting) {
		close(t.begun)
	}
}

// standing is how it stands now.
func (t *tracked) standing() (Standing, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return Standing{ID: t.id}, t.err
	}
	st := Standing{ID: t.id, State: t.state, Body: t.body, live: t}
	if t.feed != nil {
		st.Events = t.feed.newest()
	}
	return st, nil
}

// cancellable takes what cancels it.
func (t *tracked) cancellable(cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = cancel
}

// stop cancels it, if it has got so far that it can be.
func (t *tracked) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel(errCancelled)
	}
}

// ending is its outcome, once it is done.
func (t *tracked) ending() execution.Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outcome
}

// live is every execution under way, by id.
type live struct {
	mu sync.Mutex
	of map[string]*tracked
}

func (l *live) add(t *tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]*tracked{}
	}
	l.of[t.id] = t
}

func (l *live) remove(t *tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, t.id)
}

// get returns nil where there is none.
func (l *live) get(id string) *tracked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[id]
}
