package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// outlet is the way to one system.
type outlet interface {
	// send delivers the records of b, in order, and returns nil once they are
	// acknowledged; a *failure says more about an error. Some may have arrived where it
	// returns an error. It gives up by itself what takes too long, with
	// context.DeadlineExceeded, and returns soon after ctx has ended.
	send(ctx context.Context, b batch) error
	// settled returns a number up to next before which nothing will be sent again,
	// where next is the number before which send has delivered everything.
	settled(next uint64) uint64
	// close gives up what is open. Nothing is sent afterwards.
	close()
}

// failure is an error of an outlet.
type failure struct {
	err      error
	after    time.Duration // the receiver asks not to be asked before
	refused  bool          // it will not take this: somebody has to mend something
	tooLarge bool          // it may take less at once
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// worker delivers to one sink.
type worker struct {
	sink   Sink
	log    Log
	out    outlet
	encode encoder
	dir    string
	pace   pace
	logger *slog.Logger

	in      *intake
	cursor  Cursor // as it was saved last
	most    int    // bytes that are sent at once: less than a batch where the receiver wants it
	streak  int    // deliveries since most was changed
	next    atomic.Uint64
	durable atomic.Uint64 // Next of cursor
	moved   chan struct{} // holds one when next was raised

	unsaved int // attempts to save the cursor that failed, since one did not

	failures, bytes atomic.Uint64

	mu      sync.Mutex
	sending time.Time // of the first record that is being sent; zero: none is
	failing string    // why the last attempt failed
}

// settleCheck is how often a worker that has nothing to send looks at its cursor.
const settleCheck = time.Second

func newWorker(cfg Config, s Sink) (*worker, error) {
	begin, err := startOf(cfg, s)
	if err != nil {
		return nil, err
	}
	p := newProducer(cfg.LogID, cfg.Version)
	w := &worker{
		sink: s, log: cfg.Log, encode: newEncoder(s, p), dir: cfg.Dir, pace: cfg.pace, logger: cfg.Logger.With("exporter", s.Name),
		in: newIntake(begin.Next), cursor: begin, most: maxBatchBytes, moved: make(chan struct{}, 1),
	}
	w.next.Store(begin.Next)
	w.durable.Store(begin.Next)
	w.out, err = newOutlet(cfg, s, p)
	return w, err
}

func newOutlet(cfg Config, s Sink, p producer) (outlet, error) {
	switch s.Type {
	case TypeJSONL:
		return newFile(s, cfg.Stdout, cfg.pace)
	case TypeHTTP:
		return newPoster(s, p, cfg.pace)
	default:
		return newSyslog(s, cfg.pace)
	}
}

// run delivers until ctx ends, and saves the cursor.
func (w *worker) run(ctx context.Context) {
	var reading sync.WaitGroup
	reading.Go(func() { w.read(ctx) })
	defer reading.Wait()
	due := time.NewTicker(min(w.pace.save, settleCheck))
	defer due.Stop()
	for {
		select {
		case <-w.in.some:
			b := w.in.take()
			if !w.deliver(ctx, b) {
				w.save()
				return
			}
		case <-due.C:
			if !w.mend(ctx) {
				return
			}
			w.save()
		case <-ctx.Done():
			w.save()
			return
		}
	}
}

// mend sends again what may have been lost, where nothing else is sent that would. It
// reports false where ctx ended first.
func (w *worker) mend(ctx context.Context) bool {
	out, ok := w.out.(interface{ lost() bool })
	return !ok || !out.lost() || w.insist(ctx, &batch{}, &batch{})
}

// read fills the intake from the log, and begins anew where that fails.
func (w *worker) read(ctx context.Context) {
	next := w.next.Load()
	for attempt := 0; ; attempt++ {
		err := w.follow(ctx, &next, &attempt)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.failed(attempt, next, fmt.Errorf("read the log: %w", err))
		if !pause(ctx, w.pace.between(attempt)) {
			return
		}
	}
}

// follow reads from *next on until ctx ends; what was read is counted into *next, and
// sets *attempt back.
func (w *worker) follow(ctx context.Context, next *uint64, attempt *int) error {
	for records, err := range w.log.Follow(ctx, *next) {
		if err != nil {
			return err
		}
		for i := range records {
			r := &records[i]
			if r.Seq > *next && r.Type != execution.RecordGap {
				w.logger.Error("the log no longer has what the exporter has not delivered yet", "from", *next, "to", r.Seq-1)
			}
			if w.sink.wants(r) {
				text, err := w.encode(r)
				if err != nil {
					return err
				}
				if !w.in.put(ctx, item{r.Seq, r.Time, text}) {
					return nil
				}
			}
			*next, *attempt = r.Seq+1, 0
		}
		w.in.pass(*next)
	}
	return nil
}

// acknowledged raises what is acknowledged.
func (w *worker) acknowledged(next uint64) {
	if next <= w.next.Load() {
		return
	}
	w.next.Store(next)
	wake(w.moved)
	if time.Since(w.cursor.Saved) >= w.pace.save {
		w.save()
	}
}

// save writes the cursor where it is behind what is settled.
func (w *worker) save() {
	next := w.out.settled(w.next.Load())
	if next <= w.cursor.Next {
		return
	}
	c := w.sink.cursor(w.cursor.Log, next)
	if err := c.save(w.dir); err != nil {
		w.unsaved++
		w.failed(w.unsaved, next, err)
		w.cursor.Saved = time.Now() // not before every further delivery
		return
	}
	if w.unsaved > 0 {
		w.unsaved = 0
		w.works()
	}
	c.Saved = time.Now()
	w.cursor = c
	w.durable.Store(next)
}

// failed counts a failed attempt, and logs the first of several, the second, the fourth…
func (w *worker) failed(attempt int, seq uint64, err error) {
	w.failures.Add(1)
	w.mu.Lock()
	w.failing = err.Error()
	w.mu.Unlock()
	f, _ := errors.AsType[*failure](err)
	switch {
	case f != nil && f.refused:
		w.logger.Error("the exporter's receiver refuses; nothing is skipped, and it is asked again", "seq", seq, "attempt", attempt, "error", err)
	case bits.OnesCount(uint(attempt)) <= 1:
		w.logger.Warn("the exporter does not deliver; it is tried again", "seq", seq, "attempt", attempt, "error", err)
	}
}

// works says that what failed fails no more.
func (w *worker) works() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failing = ""
}

func (w *worker) set(at *time.Time, value time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*at = value
}

// waitFor waits until everything before seq is acknowledged, or ctx ends.
func (w *worker) waitFor(ctx context.Context, seq uint64) {
	for w.next.Load() < seq {
		select {
		case <-w.moved:
		case <-ctx.Done():
			return
		}
	}
}

func (w *worker) stats(durable uint64) Stats {
	next := w.next.Load()
	s := Stats{Name: w.sink.Name, Next: next, Failures: w.failures.Load(), Bytes: w.bytes.Load()}
	if durable > next {
		s.LagRecords = durable - next
	}
	waiting := w.in.oldest()
	w.mu.Lock()
	if !w.sending.IsZero() {
		waiting = w.sending
	}
	s.Failing = w.failing
	w.mu.Unlock()
	if !waiting.IsZero() {
		s.Lag = max(0, time.Since(waiting))
	}
	return s
}
