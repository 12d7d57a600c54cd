package export

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// deliver sends b, as often as that takes. It reports false where ctx ended first.
func (w *worker) deliver(ctx context.Context, b batch) bool {
	next := b.next
	for len(b.items) > 0 {
		part := b.head(w.most)
		w.set(&w.sending, part.items[0].at)
		if !w.insist(ctx, &part, &b) {
			return false
		}
	}
	w.set(&w.sending, time.Time{})
	w.acknowledged(next)
	return true
}

// insist sends part until it is acknowledged. Where it is too large, what is taken off
// goes back to the front of rest.
func (w *worker) insist(ctx context.Context, part, rest *batch) bool {
	for attempt := 1; ; attempt++ {
		err := w.out.send(ctx, *part)
		if err == nil {
			w.delivered(attempt, *part)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f, _ := errors.AsType[*failure](err)
		if f != nil && f.tooLarge && len(part.items) > 1 {
			w.halve(part, rest)
			attempt = 0
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) && len(part.items) > 1 {
			w.halve(part, rest) // it may be that it takes long
		}
		seq := w.next.Load()
		if len(part.items) > 0 {
			seq = part.items[0].seq
		}
		w.failed(attempt, seq, err)
		wait := w.pace.between(attempt)
		if f != nil && f.refused {
			wait = w.pace.slow
		}
		if f != nil {
			wait = max(wait, f.after)
		}
		if !pause(ctx, wait) {
			return false
		}
	}
}

// halve sends less at once from now on. What part no longer has is in the front of rest.
func (w *worker) halve(part, rest *batch) {
	w.most, w.streak = max(1, part.bytes/2), 0
	whole := batch{
		items: append(part.items[:len(part.items):len(part.items)], rest.items...), bytes: part.bytes + rest.bytes, next: max(part.next, rest.next),
	}
	*part = whole.head(w.most)
	*rest = whole
}

// delivered counts what was acknowledged.
func (w *worker) delivered(attempt int, part batch) {
	if attempt > 1 {
		w.logger.Info("the exporter delivers again", "attempts", attempt)
	}
	w.set(&w.sending, time.Time{})
	w.works()
	w.bytes.Add(uint64(part.bytes))
	if w.streak++; w.streak >= growAfter && w.most < maxBatchBytes {
		w.most, w.streak = w.most*2, 0
	}
	w.acknowledged(part.next)
}

// growAfter is after how many deliveries more is sent at once again.
const growAfter = 64

// between is how long to wait after so many attempts: from half to the whole of what is
// doubled each time, so that many gateways do not ask at once.
func (p pace) between(attempt int) time.Duration {
	d := p.most
	if shift := max(0, attempt-1); shift < 20 {
		d = min(p.first<<shift, p.most)
	}
	return d/2 + rand.N(d/2+1)
}

// pause waits. It reports false where ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
