package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
)

// beginning is what is known of a log whose first segments are gone. Retention
// leaves a record of what it removed, and a checkpoint that vouches for the state
// in which the first segment that is kept says it begins. A nil one is of a log
// that has its first segment.
type beginning struct {
	link      link // the first segment that is kept
	accounted bool // a record says that the one before it was removed
	vouched   bool // a checkpoint agrees with it
}

// vouch notes that a checkpoint has the root that the log has there.
func (b *beginning) vouch() {
	if b != nil {
		b.vouched = true
	}
}

// follow looks for the record of the removal in a batch of the segment in.
func (b *beginning) follow(r *Report, in link, records *batch) error {
	if b == nil {
		return nil
	}
	for _, f := range records.frames {
		if f.typ != frameRemoved {
			continue
		}
		var rec execution.Record
		if err := json.Unmarshal(f.payload(), &rec); err != nil || rec.SegmentsRemoved == nil {
			return &damage{records.offset, fmt.Errorf("record %d of a removal has no body", f.seq)}
		}
		begins, removed := b.link.header.tree.size, rec.SegmentsRemoved
		if !slices.Contains(removed.Files, segmentName(b.link.header.prev)) || begins <= removed.First || begins > removed.Last+1 {
			continue
		}
		b.accounted = true
		if root := b.link.header.tree.root().String(); begins == removed.Last+1 && root != removed.Root {
			r.Integrity.find(in.name(), records.offset, "record %d says that the %d removed records have the root %s, %s says %s", f.seq, begins, removed.Root, b.link.name(), root)
		}
	}
	return nil
}

// conclude says whether what is gone was removed by retention.
func (b *beginning) conclude(r *Report) {
	if b == nil {
		return
	}
	begins, gone := b.link.header.tree.size, segmentName(b.link.header.prev)
	if begins == 0 {
		return // what is gone had no record: its first write failed, and its numbers are void
	}
	if b.accounted {
		r.Removed = begins
		r.Completeness.note(gone, 0, "records 0 to %d are gone by retention, which the log says", begins-1)
	} else {
		r.Completeness.find(gone, 0, "the segment is missing, and with it records 0 to %d, and no record says that retention removed it", begins-1)
	}
	if !b.vouched {
		r.Integrity.find(b.link.name(), 0, "no checkpoint vouches for the %d records before the segment", begins)
	}
}

// chain returns the segments. Where retention went on since the checkpoints were read,
// which it never does past the latest, they are read again.
func (v *verification) chain() ([]link, error) {
	for {
		links, err := chain(osFileSystem{}, v.dir)
		covered := v.report.Covered
		if err != nil || len(links) == 0 || links[0].header.tree.size <= covered {
			return links, err
		}
		v.replay.expect = nil
		if err := v.checkpoints(); err != nil || v.report.Covered == covered {
			return links, err // a copy, and its checkpoints are gone
		}
	}
}

// next reads the next batch of a segment that may be in use: what was read ahead may
// have been written since. Where a later batch stands, this one is whole by now; where
// none does, v.torn says that the damage is what a crash leaves behind.
func (v *verification) next(l link, reader *segmentReader) (*batch, error) {
	b, err := reader.next()
	if !errors.As(err, new(*damage)) || l.limit >= 0 {
		return b, err
	}
	later, unread := reader.laterBatch()
	if unread != nil {
		return nil, unread
	}
	if v.torn = later < 0; v.torn {
		return b, err
	}
	reader.forget()
	return reader.next()
}
