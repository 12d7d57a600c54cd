package executor

import (
	"sync"

	"github.com/execgate/execgate/execution"
)

// feed tells a job's listener what the program does: one event at a time, and
// none before the program's start. A listener that does not return holds back
// whoever tells it, which is how a slow one slows the program.
type feed struct {
	listener func(execution.Event) error // nil where nobody listens
	begun    chan struct{}               // closed at the program's start
	failed   chan struct{}               // closed when the listener has failed

	mu     sync.Mutex
	closed bool
}

func newFeed(listener func(execution.Event) error) *feed {
	return &feed{listener: listener, begun: make(chan struct{}), failed: make(chan struct{})}
}

// begin tells of the start. It does not wait for the listener.
func (f *feed) begin() {
	if f.listener == nil {
		return
	}
	f.mu.Lock() // so that nothing comes before it
	go func() {
		defer f.mu.Unlock()
		f.call(execution.Event{Type: execution.EventStarted})
	}()
	close(f.begun)
}

// tell waits for the listener to take e.
func (f *feed) tell(e execution.Event) {
	if f.listener == nil {
		return
	}
	select {
	case <-f.begun:
	case <-f.failed:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.call(e)
}

func (f *feed) call(e execution.Event) {
	if f.closed {
		return
	}
	if f.listener(e) != nil {
		f.closed = true
		close(f.failed)
	}
}

// close returns when the listener is not being told anything, and never will
// be again.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	select {
	case <-f.failed:
	default:
		close(f.failed)
	}
}
