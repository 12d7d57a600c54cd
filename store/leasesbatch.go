package store

import (
	"context"
	"database/sql"
	"slices"
	"sync"
)

// mostLater is how many changes wait at most for another write to take them along.
const mostLater = 256

// statement is one, with its arguments.
type statement struct {
	text      string
	arguments []any
}

// batches makes changes of many callers durable together: while one batch is being
// synced, the next gathers.
type batches struct {
	store *Store

	mu      sync.Mutex
	writing bool // somebody writes; whoever is done lets the next one
	later   []statement
	waiting []*waiter
}

// waiter is a caller with changes that are to be durable.
type waiter struct {
	changes []statement
	err     error
	done    bool          // they are, or err says why not
	turn    chan struct{} // closed when it is done, or may write for all
}

// put has a change made by whoever writes next.
func (b *batches) put(ctx context.Context, c statement) error {
	b.mu.Lock()
	b.later = append(b.later, c)
	full := len(b.later) >= mostLater && !b.writing
	b.mu.Unlock()
	if full {
		return b.write(ctx)
	}
	return nil
}

// write makes the changes durable, and those that waited. A failed one fails all
// that were to be durable with it; those that were put are tried again. What is
// begun goes on where ctx ends.
func (b *batches) write(ctx context.Context, changes ...statement) error {
	own := &waiter{changes: changes, turn: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, own)
	if b.writing {
		b.mu.Unlock()
		<-own.turn // soon: whoever writes is bound by SQLite's own timeout
		if own.done {
			return own.err
		}
		b.mu.Lock()
	}
	b.writing = true
	batch, later := b.waiting, b.later
	b.waiting, b.later = nil, nil
	b.mu.Unlock()

	err := b.commit(context.WithoutCancel(ctx), batch, later)

	b.mu.Lock()
	if err != nil {
		b.later = slices.Concat(later, b.later)
	}
	for _, w := range batch {
		if w.done, w.err = true, err; w != own {
			close(w.turn)
		}
	}
	if len(b.waiting) > 0 {
		close(b.waiting[0].turn) // it writes next, and takes the others along
	} else {
		b.writing = false
	}
	b.mu.Unlock()
	return own.err
}

func (b *batches) commit(ctx context.Context, batch []*waiter, later []statement) error {
	return b.store.change(ctx, func(tx *sql.Tx) error {
		for _, w := range batch {
			for _, c := range w.changes {
				if _, err := tx.ExecContext(ctx, c.text, c.arguments...); err != nil {
					return err
				}
			}
		}
		for _, c := range later {
			if _, err := tx.ExecContext(ctx, c.text, c.arguments...); err != nil {
				return err
			}
		}
		return nil
	})
}
