package audit

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/tlog"
)

// maxVoid bounds how many numbers one gap may void, so that a forged gap cannot
// keep a verifier busy. One failed write voids one batch, and each attempt to
// write the gap one more.
const maxVoid = 1 << 24

// place is where a record stands.
type place struct {
	segment uint64 // index
	offset  int64  // of its batch
}

// replay follows the log's records in order and keeps what they add up to.
type replay struct {
	tree tree
	// unhashed replays only count: the tree's size is right, its hashes are not.
	unhashed bool
	// open are the decisions that allowed and have no end yet.
	open map[uint64]place
	// openUnknown is set where open may lack some: too many were open to be listed
	// where the replay began.
	openUnknown bool
	// kept is the number from which retention left the log, as the records have it.
	kept uint64
	// recorded is the same by the records that were followed alone, without what
	// the header says where the replay began.
	recorded uint64

	records, decided, ended, gaps, voids uint64
	// again counts ends of decisions that are not open: ended twice, or unknown.
	again uint64

	// each is called with every number before its leaf is added: that of a frame,
	// or a void one, whose frame has no body. see is shown the tree's subtrees.
	// Both may be nil.
	each func(f frame) error
	see  seer

	// expect are the roots that checkpoints state, by size and ascending;
	// reached is called at each, and passed for those that the replay skipped.
	expect  []signedTree
	reached func(signedTree, tlog.Hash)
	passed  func(signedTree)
}

// add follows one batch. A *damage says that it does not follow on what came
// before; what add did to the replay before it noticed is undefined.
func (p *replay) add(segment uint64, b *batch) error {
	bad := func(format string, args ...any) error {
		return &damage{b.offset, fmt.Errorf(format, args...)}
	}
	if b.durable != p.tree.size {
		return bad("the batch says %d numbers came before it, but %d did", b.durable, p.tree.size)
	}
	if b.next() > maxSeq {
		return bad("record %d is out of bounds", b.first)
	}
	isGap := b.frames[0].typ == frameGap
	if isGap {
		gap, err := parseGap(b.frames[0])
		if err != nil {
			return bad("%w", err)
		}
		if gap.FirstVoid != p.tree.size || gap.LastVoid+1 != b.first || b.first <= p.tree.size || b.first-p.tree.size > maxVoid {
			return bad("a gap voids records %d to %d, between record %d and record %d", gap.FirstVoid, gap.LastVoid, p.tree.size, b.first)
		}
		p.gaps++
		for p.tree.size < b.first {
			if err := p.number(frame{typ: frameVoid, seq: p.tree.size}); err != nil {
				return err
			}
			p.voids++
		}
	} else if b.first != p.tree.size {
		return bad("record %d stands where record %d should", b.first, p.tree.size)
	}
	for i, f := range b.frames {
		switch f.typ {
		case frameGap:
			if i > 0 {
				return bad("record %d is a gap inside a batch", f.seq)
			}
		case frameRemoved:
			if f.ref() > f.seq {
				return bad("record %d says that records up to %d, after it, are removed", f.seq, f.ref())
			}
			p.kept, p.recorded = max(p.kept, f.ref()), max(p.recorded, f.ref())
		case frameOpen:
			p.decided++
			p.open[f.seq] = place{segment, b.offset}
		case frameClose:
			p.ended++
			if _, ok := p.open[f.ref()]; ok {
				delete(p.open, f.ref())
			} else {
				p.again++
			}
		}
		p.records++
		if err := p.number(f); err != nil {
			return err
		}
	}
	return nil
}

// number adds the leaf of one number. The error is that of each.
func (p *replay) number(f frame) error {
	if p.each != nil {
		if err := p.each(f); err != nil {
			return err
		}
	}
	if p.unhashed {
		p.tree.size++
	} else {
		p.tree.addSeen(hashFrame(f), p.see)
	}
	p.check()
	return nil
}

// begin starts at the beginning of the segment with header h, as if everything
// before it had been followed.
func (p *replay) begin(h segmentHeader) {
	p.tree, p.kept, p.openUnknown = h.tree, h.kept, !h.listed
	p.open = make(map[uint64]place, len(h.open))
	for _, o := range h.open {
		p.open[o.seq] = o.place
	}
	p.check()
}

// follows reports how h differs from what was followed up to its segment.
func (p *replay) follows(h segmentHeader) error {
	if !p.unhashed && !p.tree.equal(&h.tree) {
		return fmt.Errorf("the segment continues a log of %d records with the root %s, not the %d records before it", h.tree.size, h.tree.root(), p.tree.size)
	}
	if h.kept != p.kept {
		return fmt.Errorf("the segment says that the log is kept from record %d on, the records before it say %d", h.kept, p.kept)
	}
	if !h.listed || p.openUnknown {
		return nil
	}
	if len(h.open) != len(p.open) {
		return fmt.Errorf("the segment says that %d executions were open, the records before it leave %d", len(h.open), len(p.open))
	}
	for _, o := range h.open {
		if at, ok := p.open[o.seq]; !ok || at != o.place {
			return fmt.Errorf("the segment says that record %d was open, the records before it do not", o.seq)
		}
	}
	return nil
}

// check compares the tree with the checkpoint of its size, if there is one.
func (p *replay) check() {
	for len(p.expect) > 0 && p.expect[0].size <= p.tree.size {
		if p.expect[0].size == p.tree.size {
			p.reached(p.expect[0], p.tree.root())
		} else if p.passed != nil {
			p.passed(p.expect[0])
		}
		p.expect = p.expect[1:]
	}
}

// parseGap returns the body of a gap record.
func parseGap(f frame) (execution.Gap, error) {
	var rec execution.Record
	if err := json.Unmarshal(f.payload(), &rec); err != nil {
		return execution.Gap{}, fmt.Errorf("the gap record is not JSON: %w", err)
	}
	if rec.Gap == nil {
		return execution.Gap{}, errors.New("the gap record has no body")
	}
	return *rec.Gap, nil
}
