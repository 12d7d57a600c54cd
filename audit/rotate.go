package audit

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/execgate/execgate/execution"
)

// healInterval is how often a new segment is tried after a fault.
const healInterval = 500 * time.Millisecond

// fault is the state between a failed write and the segment that replaces the
// one it failed in. It is there while err is not nil.
type fault struct {
	err   error
	tried time.Time
	// void is set where numbers were given to records that were not made
	// durable: firstVoid to lastVoid.
	void                bool
	firstVoid, lastVoid uint64
}

// failed notes that the numbers first to last were not made durable. The
// current segment is never written again.
func (w *writer) failed(err error, first, last uint64) {
	if !w.fault.void {
		w.fault.void, w.fault.firstVoid = true, first
	}
	w.fault.err, w.fault.lastVoid = err, last
	w.fault.tried = time.Time{}
	w.log.health.noteSegment(err)
	w.log.cfg.Logger.Error("audit log write failed, its segment is given up", "error", err,
		"file", w.name, "offset", w.off, "first_void", first, "last_void", last)
}

// mended reports whether the log can be written, after trying to begin a new
// segment where the last one failed. A log with a file gone is not mended.
func (w *writer) mended() bool {
	if err := w.log.health.goneError(); err != nil {
		w.fault.err = err
		return false
	}
	if w.fault.err == nil {
		return true
	}
	if time.Since(w.fault.tried) < healInterval {
		return false
	}
	w.fault.tried = time.Now()
	if err := w.beginSegment(); err != nil {
		w.fault.err = err
		w.log.health.noteSegment(err)
		return false
	}
	w.log.health.noteSegment(nil)
	w.log.cfg.Logger.Info("audit log goes on in a new segment", "file", w.name)
	w.noteFull()
	return true
}

// rotate begins a new segment because the current one is full. The batch must
// be empty.
func (w *writer) rotate() error {
	err := w.beginSegment()
	if err != nil && w.fault.err != nil && w.log.health.noteSegment(err) {
		w.log.cfg.Logger.Error("audit log cannot begin a segment", "error", err)
	}
	w.noteFull()
	return err
}

// beginSegment makes the spare the current segment: header, and a gap where
// numbers are void, become durable before the file gets its name. Where it
// fails, the current segment stays, and is still written only if no name was
// given yet: a segment that has a name says where the one before it ends.
func (w *writer) beginSegment() (err error) {
	spare, sparePath, err := w.log.space.take()
	if err != nil {
		return err
	}
	w.index++
	h := segmentHeader{
		logID: w.log.id.id, index: w.index, prev: w.header.index, prevEnd: w.off, tree: w.tip.tree,
		begun: time.Now().UnixNano(), kept: w.kept,
	}
	h.listOpen(w.openPlaces(), w.log.cfg.SegmentBytes)
	name := segmentName(h.index)
	path := filepath.Join(w.log.cfg.Dir, name)
	written := sparePath // the name the file has now
	defer func() {
		// There is room for another spare, and one segment more that may be removed.
		w.log.space.placed()
		wake(w.spareTaken)
		if err != nil {
			err = fmt.Errorf("begin segment %s: %w", name, err)
			spare.Close()
			// If it stays, the next segment's header passes over it.
			_ = w.log.cfg.FileSystem.Remove(written)
		}
	}()

	buf := encodeSegmentHeader(h)
	grown := h.tree
	next := w.next
	if w.fault.void {
		// The gap's own number is used up by the attempt.
		w.next++
		if buf, err = w.appendGap(buf, &grown, next); err != nil {
			return err
		}
		next++
		w.fault.lastVoid = next - 1 // of the next gap, should this one fail
	}
	info, err := w.install(spare, buf, &written, path)
	if err != nil {
		return err
	}
	w.sealCurrent(h)
	w.use(spare, info, h, int64(len(buf)))
	w.next = next
	w.fault = fault{}
	w.tip.change(func() { w.tip.tree, w.tip.begin, w.tip.sealed = grown, h.tree.size, h.prev })
	w.log.proof.grown(grown.size)
	return nil
}

// install makes buf durable as the beginning of spare, which stands at *at, and
// gives it its name. *at follows, for the caller to remove the file.
func (w *writer) install(spare File, buf []byte, at *string, path string) (Identity, error) {
	w.log.health.beginWrite()
	defer w.log.health.endWrite()
	if _, err := spare.WriteAt(buf, 0); err != nil {
		return Identity{}, err
	}
	if err := spare.Datasync(); err != nil {
		return Identity{}, err
	}
	info, err := spare.Identify()
	if err != nil {
		return Identity{}, err
	}
	if w.file != nil {
		// The name about to be given cuts the current segment off. Until it is
		// there for certain, nothing more may be written to either.
		if err := w.look(); err != nil {
			return Identity{}, err
		}
	}
	from := *at
	if err := w.log.cfg.FileSystem.Rename(from, path); err != nil {
		w.mustMove(err)
		return Identity{}, err
	}
	*at = path
	if err := w.log.cfg.FileSystem.SyncDir(w.log.cfg.Dir); err != nil {
		w.mustMove(err)
		return Identity{}, err
	}
	return info, nil
}

// mustMove notes that the current segment must not be written again.
func (w *writer) mustMove(err error) {
	if w.fault.err == nil {
		w.fault.err = err
	}
}

// use makes f the current segment, written up to off.
func (w *writer) use(f File, id Identity, h segmentHeader, off int64) {
	w.file, w.identity, w.header, w.off = f, id, h, off
	w.name = segmentName(h.index)
	w.path = filepath.Join(w.log.cfg.Dir, w.name)
	w.log.watch.use(h.index, id)
}

// openPlaces lists the open decisions.
func (w *writer) openPlaces() []openPlace {
	open := make([]openPlace, 0, len(w.open))
	for seq, o := range w.open {
		open = append(open, openPlace{seq, o.at})
	}
	return open
}

// sealCurrent closes the current segment, after which comes the one with the
// header next.
func (w *writer) sealCurrent(next segmentHeader) {
	if w.file == nil {
		return
	}
	w.log.watch.seal(sealedSegment{
		index: w.header.index, identity: w.identity, first: w.header.tree.size, next: next.tree.size,
		root: next.tree.root(), sealed: time.Unix(0, next.begun),
	})
	// Everything in it is durable or void: closing can lose nothing.
	_ = w.file.Close()
}

// appendGap appends a batch with the gap record, numbered seq, and adds what it
// stands for to t.
func (w *writer) appendGap(buf []byte, t *tree, seq uint64) ([]byte, error) {
	e, err := newGapEntry(execution.Gap{
		File: w.name, Offset: w.off,
		FirstVoid: w.fault.firstVoid, LastVoid: seq - 1,
	})
	if err != nil {
		return nil, err
	}
	start := len(buf)
	buf = append(buf, make([]byte, batchHeaderBytes)...)
	buf = e.appendFrame(buf, seq)
	putBatchHeader(buf[start:], batchHeader{
		first: seq, count: 1, bytes: uint32(len(buf) - start - batchHeaderBytes), durable: t.size,
	})
	for t.size < seq {
		t.addVoid()
	}
	f, _ := ownFrame(buf[start+batchHeaderBytes:])
	t.add(hashFrame(f))
	return buf, nil
}

// newGapEntry encodes a gap record.
func newGapEntry(gap execution.Gap) (*entry, error) {
	if gap.FirstVoid > gap.LastVoid {
		return nil, errors.New("a gap without numbers: first " + strconv.FormatUint(gap.FirstVoid, 10))
	}
	e := &entry{typ: frameGap}
	if err := e.encode(execution.Record{Type: execution.RecordGap, Gap: &gap}); err != nil {
		return nil, err
	}
	return e, nil
}
