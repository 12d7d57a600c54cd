package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// read looks at all segments from the outside, and follows the records from the
// last one on that begins before all checkpoints: where their roots are reached,
// they vouch for what that segment's header says of everything before it.
func (r *recovery) read() error {
	r.replay.reached = func(stated signedTree, root tlog.Hash) {
		if stated.root != root {
			r.unequal = append(r.unequal, stated)
		}
	}
	covered := uint64(maxSeq)
	for _, c := range []*foundCheckpoint{r.dir, r.keyDir} {
		if c != nil {
			r.replay.expect = append(r.replay.expect, c.signedTree)
			covered = min(covered, c.size)
		}
	}
	r.replay.expect = append(r.replay.expect, r.witnessed...)
	if first := r.links[0]; first.fault == nil {
		covered = min(covered, r.lastWitnessed(first.header.tree.size))
	}
	slices.SortFunc(r.replay.expect, func(a, b signedTree) int { return cmp.Compare(a.size, b.size) })
	if r.dir == nil {
		covered = 0 // nothing vouches for anything, which compare says
	}
	for _, l := range r.links {
		// Looked for first: another log's header says wrong things about its neighbours.
		if l.fault == nil && l.header.logID != r.log.id.id {
			return fmt.Errorf("open the audit log: %s belongs to another log than the key %s: restore the segment, or the key that belongs to the log", filepath.Join(r.log.cfg.Dir, l.name()), filepath.Join(r.log.cfg.KeyDir, keyName))
		}
	}
	for i := range r.links {
		if err := r.join(i); err != nil {
			return err
		}
	}
	for i := range r.links[:len(r.links)-1] {
		if err := r.look(i); err != nil {
			return err
		}
	}
	from := r.start(covered)
	r.replay.begin(r.links[from].header)
	for i := from; i < len(r.links); i++ {
		l := r.links[i]
		if err := r.replay.follows(l.header); err != nil {
			return r.damaged(l.name(), fmt.Errorf("offset 0: %w", err))
		}
		if err := r.readSegment(l, i == len(r.links)-1); err != nil {
			return err
		}
	}
	first := r.links[0].header
	if first.tree.size > r.replay.kept {
		return r.damaged(segmentName(first.prev), errors.New("offset 0: the segment is missing, and was not removed by retention"))
	}
	// A header is not signed: what it alone says is recorded is recorded again before
	// anything is removed for it.
	r.log.recorded, r.log.writer.kept = max(first.tree.size, r.replay.recorded), r.replay.kept
	return nil
}

// start is the segment to read from, where covered records are signed: the last one
// that begins before them, or an earlier one, so that a log that is not large is
// read whole.
func (r *recovery) start(covered uint64) int {
	bytes := int64(0)
	for i, l := range slices.Backward(r.links) {
		if bytes >= r.log.cfg.StartBytes && l.header.listed && l.header.tree.size <= covered {
			return i
		}
		bytes += max(0, l.limit)
	}
	return 0 // no execution is open whose decision was removed
}

// join checks that the header of segment i follows on the one before it.
func (r *recovery) join(i int) error {
	l := r.links[i]
	switch {
	case l.fault != nil:
		return r.damaged(l.name(), l.fault)
	case l.orphan && l.header.prev == 0:
		return r.damaged(l.name(), errors.New("offset 0: it says that it is the first segment, but there are others before it"))
	case l.orphan && i > 0:
		return r.damaged(segmentName(l.header.prev), errors.New("offset 0: the segment is missing"))
	case l.header.logID != r.log.id.id:
		return fmt.Errorf("open the audit log: %s belongs to another log than the key %s: restore the key that belongs to the log", filepath.Join(r.log.cfg.Dir, l.name()), filepath.Join(r.log.cfg.KeyDir, keyName))
	case i > 0 && l.header.tree.size < r.links[i-1].header.tree.size:
		return r.damaged(l.name(), fmt.Errorf("offset 0: the segment continues a log of %d records, the one before it one of %d", l.header.tree.size, r.links[i-1].header.tree.size))
	}
	return nil
}

// look checks that segment i is as long as the one after it says, and has it watched.
func (r *recovery) look(i int) error {
	l := r.links[i]
	id, err := r.log.cfg.FileSystem.Identify(filepath.Join(r.log.cfg.Dir, l.name()))
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	if id.Size < l.limit || l.limit < l.start {
		return r.damaged(l.name(), fmt.Errorf("offset %d: the segment has %d bytes, the next one says that it ends at %d", id.Size, id.Size, l.limit))
	}
	next := r.links[i+1].header
	r.log.watch.seal(sealedSegment{
		index: l.index, identity: id, first: l.header.tree.size, next: next.tree.size,
		root: next.tree.root(), sealed: time.Unix(0, next.begun),
	})
	return nil
}

// readSegment follows the records of one segment. Only the last segment may end
// in a batch that is torn.
func (r *recovery) readSegment(l link, last bool) error {
	f, err := r.log.cfg.FileSystem.OpenFile(filepath.Join(r.log.cfg.Dir, l.name()), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	defer f.Close()
	reader := newSegmentReader(f, l.start, l.limit)
	r.lastBatch, r.end = l.start, l.start
	for {
		b, err := reader.next()
		if bad := (*damage)(nil); errors.As(err, &bad) {
			if !last {
				return r.damaged(l.name(), bad)
			}
			later, err := reader.laterBatch()
			if err != nil {
				return fmt.Errorf("open the audit log: %s: %w", l.name(), err)
			}
			if later >= 0 {
				return r.damaged(l.name(), fmt.Errorf("%w, and a later batch stands at offset %d", bad, later))
			}
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("open the audit log: %s: %w", l.name(), err)
		}
		if err := r.replay.add(l.index, b); err != nil {
			return r.damaged(l.name(), err)
		}
		r.lastBatch, r.end = b.offset, b.end()
	}
}
