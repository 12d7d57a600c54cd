package export

import (
	"context"
	"sync"
	"time"
)

// The bounds of what is sent at once. One record more may stand in a batch's place.
const (
	maxBatchItems = 1000
	maxBatchBytes = 1 << 20
)

// item is one record, encoded.
type item struct {
	seq  uint64
	at   time.Time // of the record
	text []byte
}

// batch is what is sent at once: records in their order.
type batch struct {
	items []item
	bytes int
	next  uint64 // everything before it is in the batch, was before it, or is not wanted
}

func (b *batch) add(i item) {
	b.items = append(b.items, i)
	b.bytes += len(i.text)
	b.next = i.seq + 1
}

func (b *batch) full(further int) bool {
	return len(b.items) >= maxBatchItems || len(b.items) > 0 && b.bytes+further > maxBatchBytes
}

// head takes off the first records, of at most so many bytes together, but always one.
func (b *batch) head(most int) batch {
	n, bytes := 0, 0
	for n < len(b.items) && (n == 0 || bytes+len(b.items[n].text) <= most) {
		bytes += len(b.items[n].text)
		n++
	}
	h := batch{items: b.items[:n], bytes: bytes, next: b.next}
	if n < len(b.items) {
		h.next = b.items[n].seq
	}
	b.items, b.bytes = b.items[n:], b.bytes-bytes
	return h
}

// intake holds the batch that is filled while another is sent: what has been read of the
// log is never more than these two.
type intake struct {
	mu      sync.Mutex
	filling batch
	some    chan struct{} // holds one when there is something to take
	room    chan struct{} // holds one when something was taken
}

func newIntake(next uint64) *intake {
	return &intake{filling: batch{next: next}, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put adds a record, once there is room. It reports false where ctx ended first.
func (in *intake) put(ctx context.Context, i item) bool {
	for {
		in.mu.Lock()
		if !in.filling.full(len(i.text)) {
			in.filling.add(i)
			in.mu.Unlock()
			wake(in.some)
			return true
		}
		in.mu.Unlock()
		select {
		case <-in.room:
		case <-ctx.Done():
			return false
		}
	}
}

// pass says that no record before next is wanted beyond those that were put.
func (in *intake) pass(next uint64) {
	in.mu.Lock()
	moved := next > in.filling.next
	in.filling.next = max(in.filling.next, next)
	in.mu.Unlock()
	if moved {
		wake(in.some)
	}
}

// take returns what there is, which may be nothing.
func (in *intake) take() batch {
	in.mu.Lock()
	b := in.filling
	in.filling = batch{next: b.next}
	in.mu.Unlock()
	wake(in.room)
	return b
}

// oldest is the time of the first record that waits; zero: none does.
func (in *intake) oldest() time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.filling.items) == 0 {
		return time.Time{}
	}
	return in.filling.items[0].at
}

// wake sends without waiting, on a channel that holds one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
