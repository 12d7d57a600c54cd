package main

import (
	"io"
	"sync"
	"time"

	"github.com/execgate/execgate/scrub"
)

// outlived is how long a value is kept out of the log past its execution: what is
// said of an execution may be said after its end.
const outlived = time.Minute

// liveSecrets is the process's own log without the values that are lent now. Nothing
// is supposed to say one; this is for what nobody thought of, such as an error of a
// library that repeats what it was given.
type liveSecrets struct {
	to io.Writer

	mu   sync.Mutex
	sets map[string]*scrub.Set // by the execution
}

// Add implements gateway.Secrets.
func (l *liveSecrets) Add(executionID string, values *scrub.Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sets == nil {
		l.sets = make(map[string]*scrub.Set)
	}
	l.sets[executionID] = values
}

// Remove implements gateway.Secrets.
func (l *liveSecrets) Remove(executionID string) {
	time.AfterFunc(outlived, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.sets, executionID)
	})
}

// Write implements io.Writer for a logger, which writes a line at a time.
func (l *liveSecrets) Write(line []byte) (int, error) {
	l.mu.Lock()
	clean := line
	for _, values := range l.sets {
		clean = values.Bytes(clean)
	}
	l.mu.Unlock()
	if _, err := l.to.Write(clean); err != nil {
		return 0, err
	}
	return len(line), nil
}
