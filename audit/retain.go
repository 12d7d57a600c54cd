package audit

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// retain removes the segments that are not to be kept, oldest first. What it cannot
// remove now it tries again the next time.
func (l *Log) retain(ctx context.Context) {
	if l.cfg.RetainAge == 0 && !l.dropsBySize() || l.health.goneError() != nil {
		return
	}
	for ctx.Err() == nil {
		segments, reason := l.expendable(ctx)
		if len(segments) == 0 {
			l.noteRetention(nil)
			return
		}
		if err := l.remove(ctx, segments, reason); err != nil {
			if ctx.Err() == nil {
				l.noteRetention(err)
			}
			return
		}
	}
}

// reserveRemoval is the space that is kept for the record of a removal: on a log
// that is full it is what makes room again.
const reserveRemoval = 4 << 10

// forRemoval is the space that a record of type typ must leave for a removal's.
func (w *writer) forRemoval(typ frameType) int64 {
	if typ == frameRemoved || w.log.cfg.RetainAge == 0 && !w.log.dropsBySize() {
		return 0
	}
	return reserveRemoval
}

func (l *Log) dropsBySize() bool { return l.cfg.MaxBytes > 0 && l.cfg.DropExported }

func (l *Log) noteRetention(err error) {
	if l.health.noteRetention(err) && err != nil {
		l.cfg.Logger.Warn("audit log cannot remove old segments, it tries again", "error", err)
	}
}

// expendable returns the oldest segments that are past their age, or else those
// that take the log past its size, as far as they may be removed.
func (l *Log) expendable(ctx context.Context) ([]sealedSegment, execution.RemovalReason) {
	oldest := l.watch.oldest(execution.MaxRecordSegments)
	n, reason := 0, execution.RemovedByAge
	if l.cfg.RetainAge > 0 {
		before := time.Now().Add(-l.cfg.RetainAge)
		for n < len(oldest) && oldest[n].sealed.Before(before) {
			n++
		}
	}
	if n == 0 && l.dropsBySize() {
		reason = execution.RemovedBySize
		// Room for the spare and for one more, so that the writer need not wait.
		excess := l.watch.held().Bytes + 2*l.cfg.SegmentBytes - l.cfg.MaxBytes
		for n < len(oldest) && excess > 0 {
			excess -= oldest[n].identity.Size
			n++
		}
	}
	if n == 0 {
		l.noteWaiting("", 0)
		return nil, ""
	}
	signed := min(l.proof.signed.Load(), l.proof.remembered.Load())
	if oldest[n-1].next > signed {
		l.proof.want()
	}
	before, why := l.removableBefore(ctx, signed)
	segments := slices.DeleteFunc(oldest[:n], func(s sealedSegment) bool { return s.next > before })
	l.noteWaiting(why, n-len(segments))
	return segments, reason
}

// removableBefore returns the number before which nothing is needed: it is signed,
// every sink has it, and the index, and no execution is open whose decision it is; and
// which of these holds what comes after it.
func (l *Log) removableBefore(ctx context.Context, signed uint64) (before uint64, why Hold) {
	before, why = signed, HeldBySignature
	hold := func(by Hold, from uint64) {
		if from < before {
			before, why = from, by
		}
	}
	if l.cfg.Indexed != nil {
		hold(HeldByIndex, l.cfg.Indexed())
	}
	if l.cfg.Exported != nil {
		hold(HeldByExporters, l.cfg.Exported())
	}
	oldest := make(chan uint64, 1)
	ask := func() {
		first := uint64(math.MaxUint64)
		for seq := range l.writer.open {
			first = min(first, seq)
		}
		oldest <- first
	}
	select {
	case l.writer.asks <- ask:
		hold(HeldByExecution, <-oldest)
		return before, why
	case <-l.stopped:
	case <-ctx.Done():
	}
	return 0, why
}

// remove records that segments are removed, and removes them. Each step may be the
// last: what is recorded and still there may be removed at any time, and what is
// removed was recorded.
func (l *Log) remove(ctx context.Context, segments []sealedSegment, reason execution.RemovalReason) error {
	last := segments[len(segments)-1]
	if last.next > l.recorded {
		e, err := newRemovalEntry(segments, reason)
		if err != nil {
			return err
		}
		if _, err := l.append(ctx, e); err != nil {
			return fmt.Errorf("record that segments are removed: %w", err)
		}
		l.recorded = last.next
	}
	// Segments that were given up before anything in them was acknowledged go too.
	indexes, err := listSegments(l.cfg.FileSystem, l.cfg.Dir)
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if index > last.index {
			break
		}
		path := filepath.Join(l.cfg.Dir, segmentName(index))
		if err := l.watch.drop(index, func() error { return l.cfg.FileSystem.Remove(path) }); err != nil {
			return fmt.Errorf("remove a segment: %w", err)
		}
		// One after the other, also after a power loss: what is left has no hole.
		if err := l.cfg.FileSystem.SyncDir(l.cfg.Dir); err != nil {
			return fmt.Errorf("remove a segment: %w", err)
		}
	}
	l.cfg.Logger.Info("audit log removed its oldest segments", "segments", len(segments), "reason", string(reason), "oldest", last.next)
	return l.removeCheckpoints(last.index)
}

// removeCheckpoints removes the checkpoints of segments before index. That of index
// itself vouches for the first segment that is kept.
func (l *Log) removeCheckpoints(index uint64) error {
	names, err := l.cfg.FileSystem.ReadDir(l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list the log's folder: %w", err)
	}
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, checkpointSuffix)
		of, isSegments := segmentIndex(digits + segmentSuffix)
		if !ok || !isSegments || of >= index {
			continue
		}
		if err := l.cfg.FileSystem.Remove(filepath.Join(l.cfg.Dir, name)); err != nil {
			return fmt.Errorf("remove a checkpoint: %w", err)
		}
	}
	return nil
}

// newRemovalEntry encodes the record of a removal.
func newRemovalEntry(segments []sealedSegment, reason execution.RemovalReason) (*entry, error) {
	first, last := segments[0], segments[len(segments)-1]
	body := &execution.SegmentsRemoved{First: first.first, Last: last.next - 1, Root: last.root.String(), Reason: reason}
	for _, s := range segments {
		body.Files = append(body.Files, segmentName(s.index))
		body.Bytes += s.identity.Size
	}
	e := &entry{typ: frameRemoved, ref: last.next, done: make(chan struct{})}
	if err := e.encode(execution.Record{Type: execution.RecordSegmentsRemoved, SegmentsRemoved: body}); err != nil {
		return nil, err
	}
	return e, nil
}
