package vault

import (
	"fmt"
	"sync"
	"time"
)

// breaker keeps calls from waiting for a Vault that cannot be reached. Answers of
// any status close it; only a call that got none counts as failed.
type breaker struct {
	after int           // failures in a row that open it
	rest  time.Duration // how long it is open before one call may try

	mu       sync.Mutex
	failures int
	until    time.Time
	probing  bool
}

// outcome is how a call went.
type outcome int

const (
	unknown outcome = iota // it was given up by its caller: that says nothing
	answered
	failed
)

// openError is why a call was not made at all.
type openError struct{ wait time.Duration }

func (e *openError) Error() string {
	return fmt.Sprintf("vault does not answer: not asked for another %v", e.wait.Round(time.Millisecond))
}

// enter says whether a call may be made; leave must follow where it may.
func (b *breaker) enter() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.after {
		return nil
	}
	if wait := time.Until(b.until); wait > 0 || b.probing {
		return &openError{max(wait, b.rest/10)}
	}
	b.probing = true
	return nil
}

func (b *breaker) leave(how outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	switch how {
	case answered:
		b.failures = 0
	case failed:
		b.failures++
		b.until = time.Now().Add(b.rest)
	case unknown:
	}
}

// open returns why no call would be made now; nil: one would.
func (b *breaker) open() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := time.Until(b.until); b.failures >= b.after && wait > 0 {
		return &openError{wait}
	}
	return nil
}
