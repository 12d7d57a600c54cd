package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Verify checks the log in dir, which may be a copy, with nothing but its public
// key: verifier is the text of KeyDir/audit.pub, or of any key that the log had.
// The log is also held against the checkpoints in the files of witnesses. Memory
// does not grow with the log, but for some bytes for each checkpoint. The error says
// that the files could not be read or that verifier is not a key; everything that is wrong with the log is in the Report.
func Verify(dir, verifier string, witnesses ...string) (Report, error) {
	ring, err := newKeyring(verifier)
	if err != nil {
		return Report{}, err
	}
	v := &verification{dir: dir, ring: ring, witnesses: witnesses, report: Report{
		Origin:       ring.origin(),
		Integrity:    Verdict{OK: true, Findings: []Finding{}, Notes: []Finding{}},
		Completeness: Verdict{OK: true, Findings: []Finding{}, Notes: []Finding{}},
	}}
	v.replay = replay{open: map[uint64]place{}, reached: v.reached, passed: v.passed, each: v.number}
	if err := v.checkpoints(); err != nil {
		return Report{}, err
	}
	if err := v.segments(); err != nil {
		return Report{}, err
	}
	v.keysRotated()
	v.conclude()
	return v.report, nil
}

// verification is one run of Verify.
type verification struct {
	dir       string
	ring      *keyring
	witnesses []string // paths
	replay    replay
	report    Report
	// broken is set after damage: what follows is held against the tree that the
	// next segment's header states.
	broken bool
	// begins is the number of the first record that is here; rotated are those that
	// rotate the log's key.
	begins  uint64
	rotated []rotatedKey
	// torn is set where damage is only that the last batch is torn.
	torn bool
	// beginning is set where the log begins with a later segment than its first.
	beginning *beginning
}

// checkpoints reads all checkpoints, in the log's folder and in witnesses.
func (v *verification) checkpoints() error {
	files, err := listCheckpoints(osFileSystem{}, v.dir)
	if err != nil {
		return err
	}
	rotations, err := v.rotationsKept()
	if err != nil {
		return err
	}
	for _, err := range v.ring.follow(append(rotationsIn(files), rotations...)) {
		v.report.Integrity.find(checkpointName, 0, "%v", err)
	}
	v.report.Keys = v.ring.list()
	latest := false
	for _, f := range files {
		latest = latest || f.name == checkpointName
		stated, err := v.ring.open(f.data)
		if err != nil {
			v.report.Integrity.find(f.name, 0, "%v", err)
			continue
		}
		stated.file = f.name
		v.report.Covered = max(v.report.Covered, stated.size)
		v.replay.expect = append(v.replay.expect, stated)
	}
	if !latest {
		v.report.Integrity.find(checkpointName, 0, "there is no checkpoint: nothing vouches for the latest records")
	}
	for _, path := range v.witnesses {
		if err := v.witness(path); err != nil {
			return err
		}
	}
	slices.SortStableFunc(v.replay.expect, func(a, b signedTree) int { return cmp.Compare(a.size, b.size) })
	return nil
}

func (v *verification) reached(stated signedTree, root tlog.Hash) {
	if stated.root == root {
		v.beginning.vouch()
	} else {
		v.report.Integrity.find(stated.file, 0, "the first %d records have the root %s, the checkpoint states %s", stated.size, root, stated.root)
	}
}

func (v *verification) passed(stated signedTree) {
	v.report.Integrity.note(stated.file, 0, "the checkpoint of %d records could not be compared, records before it are missing", stated.size)
}

// segments follows every segment.
func (v *verification) segments() error {
	links, err := v.chain()
	if err != nil {
		return err
	}
	v.replay.check()
	if len(links) > 0 && links[0].fault == nil {
		v.begins = links[0].header.tree.size
	}
	for i := 0; i < len(links); i++ {
		l := links[i]
		if l.fault != nil {
			v.report.Integrity.find(l.name(), 0, "%v", errors.Unwrap(l.fault))
			v.broken = true
			continue
		}
		v.join(l)
		err := v.segment(l)
		if errors.Is(err, fs.ErrNotExist) && v.report.Segments == 0 {
			// Retention removed it since the folder was listed.
			if links, err = v.chain(); err != nil {
				return err
			}
			i = -1
			continue
		}
		if err != nil {
			return fmt.Errorf("verify %s: %w", l.name(), err)
		}
	}
	if len(links) == 0 {
		v.report.Completeness.find(segmentName(1), 0, "there is no segment")
	}
	return nil
}

// join checks that a segment continues what came before it.
func (v *verification) join(l link) {
	if l.header.logID != v.ring.logID {
		v.report.Integrity.find(l.name(), 0, "the segment belongs to another log")
	}
	if l.orphan && l.header.prev != 0 && v.report.Segments == 0 && !v.broken {
		v.beginning = &beginning{link: l}
		v.replay.begin(l.header)
		return
	}
	t := &l.header.tree
	if l.orphan {
		if l.header.prev == 0 {
			v.report.Integrity.find(l.name(), 0, "the segment says that it is the first, but there are others before it")
		} else {
			lost := "records before it"
			if t.size > v.replay.tree.size {
				lost = fmt.Sprintf("records %d to %d", v.replay.tree.size, t.size-1)
			}
			v.report.Completeness.find(segmentName(l.header.prev), 0, "the segment is missing, and with it %s", lost)
		}
	}
	if v.broken && !l.orphan && t.size > v.replay.tree.size {
		v.report.Completeness.find(l.name(), 0, "records %d to %d before the segment could not be followed", v.replay.tree.size, t.size-1)
	}
	if v.broken || l.orphan {
		// Whether the header tells the truth shows at the next checkpoint.
		v.broken = false
		v.replay.begin(l.header)
	} else if err := v.replay.follows(l.header); err != nil {
		v.report.Integrity.find(l.name(), 0, "%v", err)
	}
}

// segment follows the records of one segment.
func (v *verification) segment(l link) error {
	f, err := osFileSystem{}.OpenFile(filepath.Join(v.dir, l.name()), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	v.report.Segments++
	reader := newSegmentReader(f, l.start, l.limit)
	defer func() { v.report.Bytes += reader.off }()
	for {
		gaps, from := v.replay.gaps, v.replay.tree.size
		b, err := v.next(l, reader)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = v.replay.add(l.index, b)
		}
		if err == nil {
			err = v.beginning.follow(&v.report, l, b)
		}
		bad := (*damage)(nil)
		if errors.As(err, &bad) {
			v.damaged(l, bad)
			return nil
		}
		if err != nil {
			return err
		}
		if v.replay.gaps > gaps {
			v.report.Completeness.note(l.name(), b.offset, "a write failed: records %d to %d are void, and were never acknowledged", from, b.first-1)
		}
	}
}

// damaged reports damage in a segment. At the end of the log a torn batch is what a
// crash leaves behind.
func (v *verification) damaged(l link, bad *damage) {
	v.broken = true
	if v.torn {
		v.report.Completeness.note(l.name(), bad.offset, "the segment ends in a torn batch: %v", bad.err)
	} else {
		v.report.Integrity.find(l.name(), bad.offset, "%v", bad.err)
	}
}

// conclude draws what follows from all records together.
func (v *verification) conclude() {
	r, p := &v.report, &v.replay
	r.Records, r.Decided, r.Ended, r.Gaps, r.Voids = p.records, p.decided, p.ended, p.gaps, p.voids
	r.TreeSize, r.Root = p.tree.size, p.tree.root().String()
	v.beginning.conclude(r)
	for _, stated := range p.expect {
		r.Integrity.find(stated.file, 0, "the checkpoint covers %d records, only %d could be followed", stated.size, p.tree.size)
	}
	if p.tree.size < r.Covered {
		r.Completeness.find(checkpointName, 0, "records %d to %d are missing or could not be followed", p.tree.size, r.Covered-1)
	}
	if p.tree.size > r.Covered {
		r.Completeness.find(checkpointName, 0, "records %d to %d come after the latest checkpoint, so no signature covers them", r.Covered, p.tree.size-1)
	}
	open := make([]uint64, 0, len(p.open))
	for seq := range p.open {
		open = append(open, seq)
	}
	slices.Sort(open)
	for _, seq := range open {
		r.Completeness.find(segmentName(p.open[seq].segment), p.open[seq].offset, "record %d allowed an execution, and there is no end of it", seq)
	}
	if p.again > 0 {
		r.Completeness.note("", 0, "%d ends belong to no open decision: ended twice, or the decision is missing", p.again)
	}
}
