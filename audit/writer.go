package audit

import (
	"context"
	"errors"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxBatchRecords is the number of records after which a batch takes no more.
	maxBatchRecords = 1024
	// lookAgain is how old the look at a segment's name may be when a batch is
	// acknowledged.
	lookAgain = time.Millisecond
	// hashedMeanwhile is how many records are hashed before they are durable. It takes
	// about as long as the disk takes for their bytes; more would hold up the rest of
	// what fdatasync does.
	hashedMeanwhile = 64
)

// writer is the one goroutine that writes segments. All its fields but tip are
// its own while Run runs.
type writer struct {
	log *Log

	file     File // the current segment; nil before recovery
	name     string
	path     string // name, in the log's folder
	identity Identity
	header   segmentHeader
	off      int64 // of the next batch
	next     uint64
	index    uint64 // the last that was given to a segment

	buf     []byte
	group   []*entry    // what buf holds
	leaves  []tlog.Hash // of buf's first records, once it is written
	pending []*entry    // what serve took
	later   []*entry    // what nobody waits for, until the next batch
	open    map[uint64]opened
	// reserved is what the open decisions keep; promised is what those in group
	// will.
	reserved, promised int64
	// orphans are ends that the log owes for decisions whose callers were refused.
	orphans []*entry

	fault fault
	kept  uint64 // the number from which retention left the log, as it is recorded

	opened  time.Time // when the log was
	first   uint64    // number of the first record since then
	written time.Time // when the last record was, or was tried
	asks    chan func()

	spaceChanged chan struct{} // the spare came or went
	spareTaken   chan struct{} // or retention may remove what it could not before

	tip tip
}

// opened is a decision that has no end yet.
type opened struct {
	reserve int64
	subject Open
	at      place
}

func newWriter(l *Log) *writer {
	return &writer{
		log: l, open: map[uint64]opened{},
		asks: make(chan func()), spaceChanged: make(chan struct{}, 1), spareTaken: make(chan struct{}, 1),
	}
}

// run writes what is queued until ctx ends and what is queued then is written.
func (w *writer) run(ctx context.Context) {
	defer close(w.log.stopped)
	heal := time.NewTicker(healInterval)
	defer heal.Stop()
	w.noteFull()
	for {
		select {
		case e := <-w.log.queue:
			w.receive(e)
		case <-w.spaceChanged:
			w.noteFull()
		case ask := <-w.asks:
			ask()
		case <-heal.C:
			// A fault is mended without waiting for a record, because a gateway
			// that is not ready has none to write. What the log itself owes,
			// and what nobody waits for, is written here too, where no other record
			// takes it along.
			if w.mended() && len(w.orphans)+len(w.later) > 0 {
				w.serve(nil)
			}
			w.beat()
		case <-ctx.Done():
			for w.drain() {
			}
			return
		}
	}
}

// drain writes one batch of what is queued, and reports whether there was any.
func (w *writer) drain() bool {
	select {
	case e := <-w.log.queue:
		w.serve(e)
		return true
	default:
	}
	if owed := len(w.orphans) + len(w.later); owed > 0 {
		w.serve(nil)
		return len(w.orphans) < owed
	}
	return false
}

// receive serves e, or keeps it for the next batch where nobody waits for it.
func (w *writer) receive(e *entry) {
	if e.lost == nil || len(w.later) >= maxBatchRecords/2 {
		w.serve(e)
		return
	}
	w.later = append(w.later, e)
}

// serve takes what is queued, beginning with first, and writes it.
func (w *writer) serve(first *entry) {
	w.pending = append(w.pending[:0], w.orphans...)
	w.orphans = w.orphans[:0]
	w.pending = append(w.pending, w.later...)
	clear(w.later)
	w.later = w.later[:0]
	if first != nil {
		w.pending = append(w.pending, first)
	}
	bytes := 0
	for _, e := range w.pending {
		bytes += e.bytes()
	}
collect:
	for len(w.pending) < maxBatchRecords && bytes < w.log.cfg.maxBatchBytes() {
		select {
		case e := <-w.log.queue:
			w.pending = append(w.pending, e)
			bytes += e.bytes()
		default:
			break collect
		}
	}
	w.written = time.Now()
	w.begin()
	for i, e := range w.pending {
		w.place(e)
		w.pending[i] = nil
	}
	w.commit()
	if w.log.space.ready.Load() {
		w.noteFull() // ends may have given back what they kept
	}
}

// begin empties the batch.
func (w *writer) begin() {
	const common = batchHeaderBytes + 64<<10
	if cap(w.buf) > max(common, 2*w.log.cfg.maxBatchBytes()+maxHeaderBytes) {
		w.buf = nil
	}
	if w.buf == nil {
		w.buf = make([]byte, batchHeaderBytes, common)
	}
	w.buf = w.buf[:batchHeaderBytes]
	clear(w.group)
	w.group = w.group[:0]
	w.promised = 0
}

// place puts e into the batch, after writing the batch and beginning a new
// segment where e does not fit.
func (w *writer) place(e *entry) {
	if e.state.Load() == entryAbandoned && e.typ != frameClose {
		// Nobody waits for it, and nothing was written: it leaves no trace. An
		// end is the exception: it is true whoever waits.
		return
	}
	if !w.mended() {
		w.refuse(e, w.fault.err)
		return
	}
	if !w.admits(e) {
		w.noteFull()
		w.refuse(e, errors.Join(errFull, w.log.space.refused()))
		return
	}
	if w.off+int64(len(w.buf)+e.bytes()) > w.identity.Size {
		w.commit()
		if !w.mended() {
			w.refuse(e, w.fault.err)
			return
		}
		if w.off+int64(len(w.buf)+e.bytes()) > w.identity.Size {
			if err := w.rotate(); err != nil {
				w.refuse(e, err)
				return
			}
		}
	}
	w.buf = e.appendFrame(w.buf, w.next+uint64(len(w.group)))
	w.group = append(w.group, e)
	if e.typ == frameOpen {
		w.promised += e.reserve
	}
}

// refuse answers e with an error. An end that the log itself owes is kept.
func (w *writer) refuse(e *entry, cause error) {
	if e.done == nil {
		w.orphans = append(w.orphans, e)
		return
	}
	e.answer(0, unavailable(cause))
	if e.lost != nil {
		e.lost(e.err)
	}
}

// commit makes the batch durable and answers everybody in it. The error is for
// them alone: what it means for the log is in w.fault.
func (w *writer) commit() {
	if len(w.group) == 0 {
		return
	}
	first, n := w.next, uint64(len(w.group))
	putBatchHeader(w.buf, batchHeader{
		first: first, count: uint32(n), bytes: uint32(len(w.buf) - batchHeaderBytes),
		durable: w.tip.tree.size,
	})
	err := w.write()
	w.next += n
	if err != nil {
		w.failed(err, first, w.next-1)
		for _, e := range w.group {
			w.refuse(e, err)
		}
		w.begin()
		return
	}
	w.off += int64(len(w.buf))
	for i, e := range w.group {
		seq := first + uint64(i)
		if e.done != nil && !e.answer(seq, nil) && e.typ == frameOpen {
			w.owe(e, seq)
		}
	}
	w.settle(first, w.off-int64(len(w.buf)))
	w.begin()
}

// write writes the batch at the end of the current segment and checks that the
// segment is still where a reader finds it. That check, and hashing records, is done
// while the disk is at work, so that nobody waits for it.
func (w *writer) write() error {
	w.log.health.beginWrite()
	defer w.log.health.endWrite()
	if _, err := w.file.WriteAt(w.buf, w.off); err != nil {
		return err
	}
	if err := w.file.Writeback(w.off, int64(len(w.buf))); err != nil {
		return err
	}
	w.hash()
	looked := time.Now()
	if err := w.look(); err != nil {
		return err
	}
	if err := w.file.Datasync(); err != nil {
		return err
	}
	if time.Since(looked) > lookAgain {
		return w.look()
	}
	return nil
}

// look checks that the current segment is where a reader finds it.
func (w *writer) look() error {
	err := w.log.watch.named(w.path, w.identity)
	if err != nil {
		w.log.noteGone(err)
	}
	return err
}

// hash sets the leaves that the batch's first records are.
func (w *writer) hash() {
	w.leaves = w.leaves[:0]
	for rest := w.buf[batchHeaderBytes:]; len(rest) > 0 && len(w.leaves) < hashedMeanwhile; {
		f, size := ownFrame(rest)
		w.leaves = append(w.leaves, hashFrame(f))
		rest = rest[size:]
	}
}

// settle adds the batch, whose first number is first and which stands at off, to
// the tree and to what is open.
func (w *writer) settle(first uint64, off int64) {
	for i, e := range w.group {
		seq := first + uint64(i)
		switch e.typ {
		case frameOpen:
			w.open[seq] = opened{e.reserve, e.subject, place{w.header.index, off}}
			w.reserved += e.reserve
		case frameClose:
			w.reserved -= w.open[e.ref].reserve
			delete(w.open, e.ref)
		case frameRemoved:
			w.kept = max(w.kept, e.ref)
		}
	}
	w.promised = 0
	w.tip.change(func() {
		rest := w.buf[batchHeaderBytes:]
		for i := range w.group {
			f, size := ownFrame(rest)
			if i < len(w.leaves) {
				w.tip.tree.add(w.leaves[i])
			} else {
				w.tip.tree.add(hashFrame(f))
			}
			rest = rest[size:]
		}
	})
	w.log.proof.grown(w.tip.tree.size)
}

// owe queues the end of a decision that became durable although its caller had
// been refused: nothing was run for it.
func (w *writer) owe(e *entry, seq uint64) {
	end, err := newEntry(execution.Record{
		Type: execution.RecordEnded, Execution: e.subject.Execution, Principal: e.subject.Principal,
		RequestID: e.subject.RequestID, TraceID: e.subject.TraceID,
		Ended: &execution.Ended{
			DecidedSeq: seq, Outcome: execution.OutcomeEngineFailed, Error: "audit_unavailable",
			Usage: execution.Usage{LimitsHit: []string{}},
		},
	})
	if err != nil {
		w.log.cfg.Logger.Error("audit log cannot encode an end", "error", err, "seq", seq)
		return
	}
	end.done = nil
	w.orphans = append(w.orphans, end)
}
