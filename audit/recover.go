package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// recovery is what New learns from the files.
type recovery struct {
	log    *Log
	replay replay
	links  []link
	ring   *keyring // of the log's key and those before it
	// dir and keyDir are the latest checkpoint and the one that is kept beside
	// the key; nil where there is none.
	dir, keyDir *foundCheckpoint
	// witnessed are the checkpoints that witnesses keep; file names the witness.
	witnessed []signedTree
	// claimed is the largest checkpoint that a witness has and no known key signed.
	claimed signedTree
	// unequal are the checkpoints that state another root than the log has.
	unequal []signedTree
	// lastBatch is where the last batch of the last segment begins, or its end.
	lastBatch, end int64
}

// foundCheckpoint is a checkpoint that New found.
type foundCheckpoint struct {
	signedTree
	signed []byte
}

// recover brings the log to the state that its files have.
func (l *Log) recover() error {
	r := &recovery{log: l}
	var err error
	if r.links, err = chain(l.cfg.FileSystem, l.cfg.Dir); err != nil {
		return err
	}
	if err := r.identify(); err != nil {
		return err
	}
	if len(r.links) == 0 {
		if err := l.space.sweep(); err != nil {
			return err
		}
		return r.begin()
	}
	if err := r.read(); err != nil {
		return err
	}
	if err := r.compare(); err != nil {
		return err
	}
	if err := l.space.sweep(); err != nil {
		return err
	}
	if err := r.reopen(); err != nil {
		return err
	}
	if err := r.findUnended(); err != nil {
		return err
	}
	if err := r.finishRotation(); err != nil {
		return err
	}
	l.proof.adopt(r.dir, r.keyDir)
	r.provision()
	if signed, size := l.proof.signed.Load(), r.replay.tree.size; size > signed {
		// A stop leaves none; who can write here may have added them since.
		l.cfg.Logger.Warn("audit log ends in records that no checkpoint covers, it signs them now: they are of the last second before a crash", "first", signed, "last", size-1)
	}
	// What was found is vouched for from now on. A disk that is full or fails
	// must not keep running work from being ended, so this is not fatal.
	_ = l.proof.write(true)
	return nil
}

// damaged returns the error of a log that must not be continued.
func (r *recovery) damaged(name string, err error) error {
	return fmt.Errorf("open the audit log: %s, %w: records that were acknowledged are damaged or gone; restore %s from a copy, or keep it for examination and begin a new log by moving it and %s away",
		filepath.Join(r.log.cfg.Dir, name), err, r.log.cfg.Dir, filepath.Join(r.log.cfg.KeyDir, "audit.*"))
}

// identify loads the key and the checkpoints. A key is made only for a log that
// does not exist yet.
func (r *recovery) identify() error {
	l := r.log
	if len(r.links) > 0 {
		if _, err := l.cfg.FileSystem.Identify(filepath.Join(l.cfg.KeyDir, keyName)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open the audit log: there is a log in %s but no %s in %s to sign it with: restore the key, or begin a new log by moving the folder away", l.cfg.Dir, keyName, l.cfg.KeyDir)
		}
	}
	var err error
	if l.id, _, err = loadIdentity(l.cfg.FileSystem, l.cfg.KeyDir); err != nil {
		return err
	}
	if r.ring, err = newKeyring(l.id.public); err != nil {
		return err
	}
	files, err := listCheckpoints(l.cfg.FileSystem, l.cfg.Dir)
	if err != nil {
		return err
	}
	for _, err := range r.ring.follow(rotationsIn(files)) {
		return r.damaged(checkpointName, fmt.Errorf("offset 0: %w", err))
	}
	if r.dir, err = r.checkpoint(l.cfg.Dir, checkpointName); err != nil {
		return err
	}
	if r.keyDir, err = r.checkpoint(l.cfg.KeyDir, rememberedName); err != nil {
		return err
	}
	for _, w := range l.cfg.Witnesses {
		r.ask(w)
	}
	return nil
}

func (r *recovery) checkpoint(dir, name string) (*foundCheckpoint, error) {
	data, err := readHead(r.log.cfg.FileSystem, filepath.Join(dir, name), maxCheckpointBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint %s: %w", filepath.Join(dir, name), err)
	}
	stated, err := r.ring.open(data)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %s: %w: restore it, or the key it was signed with", filepath.Join(dir, name), err)
	}
	return &foundCheckpoint{stated, data}, nil
}

// begin makes a new log.
func (r *recovery) begin() error {
	l := r.log
	for _, c := range []*foundCheckpoint{r.dir, r.keyDir} {
		if c != nil && c.size > 0 {
			return r.damaged(segmentName(1), fmt.Errorf("offset 0: there is no segment, but a checkpoint of %d records", c.size))
		}
	}
	if err := r.compareWitnessed(0); err != nil {
		return err
	}
	if err := l.writer.beginSegment(); err != nil {
		return err
	}
	l.proof.adopt(r.dir, r.keyDir)
	if err := l.proof.write(true); err != nil {
		return err
	}
	r.provision()
	return nil
}

// provision makes the spare. Without it the log can be opened, but takes no new
// decision once its segment is full.
func (r *recovery) provision() {
	if err := r.log.space.ensure(); err != nil {
		r.log.health.noteSpace(err)
		r.log.cfg.Logger.Warn("audit log cannot allocate its next segment", "error", err)
	}
}

// compare holds the records against the checkpoints.
func (r *recovery) compare() error {
	last := r.links[len(r.links)-1].name()
	at := func(format string, args ...any) error {
		return r.damaged(last, fmt.Errorf("offset %d: "+format, append([]any{r.end}, args...)...))
	}
	size := r.replay.tree.size
	if err := r.compareWitnessed(size); err != nil {
		return err
	}
	if len(r.unequal) > 0 {
		return at("the log's first %d records have another root than their checkpoint states", r.unequal[0].size)
	}
	for _, c := range []*foundCheckpoint{r.dir, r.keyDir} {
		if c != nil && c.size > size {
			return at("the log holds %d records, but a checkpoint covers %d", size, c.size)
		}
	}
	if first := r.links[0].header.tree.size; r.dir != nil && r.dir.size < first {
		return r.damaged(checkpointName, fmt.Errorf("offset 0: the log begins with record %d, and the checkpoint covers %d", first, r.dir.size))
	}
	if r.dir == nil && size > 0 {
		return r.damaged(checkpointName, errors.New("offset 0: the checkpoint is missing"))
	}
	return nil
}

// reopen opens the last segment for writing. Its last batch may be in the
// kernel's memory only, even marked clean after a failed fdatasync that nobody
// remembers; it is written again, so that what follows it stands on the disk.
// A torn batch after it is overwritten with zeros.
func (r *recovery) reopen() error {
	l, w := r.links[len(r.links)-1], r.log.writer
	wrap := func(err error) error { return fmt.Errorf("repair the end of audit log %s: %w", l.name(), err) }
	f, err := r.log.cfg.FileSystem.OpenFile(filepath.Join(r.log.cfg.Dir, l.name()), os.O_RDWR, 0)
	if err != nil {
		return wrap(err)
	}
	w.file = f // closed by Log.close from here on
	tail := make([]byte, r.end-r.lastBatch)
	if _, err := f.ReadAt(tail, r.lastBatch); err != nil && len(tail) > 0 {
		return wrap(err)
	}
	if len(tail) > 0 {
		if _, err := f.WriteAt(tail, r.lastBatch); err != nil {
			return wrap(err)
		}
	}
	reader := newSegmentReader(f, r.end, -1)
	dirty, err := reader.lastNonZero()
	if err != nil {
		return wrap(err)
	}
	for off := r.end; off < dirty; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), dirty-off)], off); err != nil {
			return wrap(err)
		}
	}
	if dirty > r.end {
		r.log.cfg.Logger.Warn("audit log ended in a torn batch that was never acknowledged, cut", "file", l.name(), "offset", r.end, "bytes", dirty-r.end)
	}
	if err := f.Datasync(); err != nil {
		return wrap(err)
	}
	if err := r.log.cfg.FileSystem.SyncDir(r.log.cfg.Dir); err != nil {
		return wrap(err)
	}
	id, err := f.Identify()
	if err != nil {
		return wrap(err)
	}
	indexes, err := listSegments(r.log.cfg.FileSystem, r.log.cfg.Dir)
	if err != nil {
		return err
	}
	w.use(f, id, l.header, r.end)
	w.index = indexes[len(indexes)-1]
	w.next = r.replay.tree.size
	w.first = w.next
	w.tip.tree, w.tip.begin, w.tip.sealed = r.replay.tree, l.header.tree.size, l.header.prev
	return nil
}

// findUnended reads the decisions that are open.
func (r *recovery) findUnended() error {
	bySegment := map[uint64][]uint64{}
	for seq, at := range r.replay.open {
		bySegment[at.segment] = append(bySegment[at.segment], seq)
	}
	for segment, seqs := range bySegment {
		if err := r.readOpen(segment, seqs); err != nil {
			if bad := (*damage)(nil); errors.As(err, &bad) || errors.Is(err, fs.ErrNotExist) {
				return r.damaged(segmentName(segment), err)
			}
			return fmt.Errorf("read the open decisions of audit log %s: %w", segmentName(segment), err)
		}
	}
	slices.SortFunc(r.log.unended, func(a, b Open) int { return cmp.Compare(a.DecidedSeq, b.DecidedSeq) })
	return nil
}

func (r *recovery) readOpen(segment uint64, seqs []uint64) error {
	f, err := r.log.cfg.FileSystem.OpenFile(filepath.Join(r.log.cfg.Dir, segmentName(segment)), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := newSegmentReader(f, 0, -1)
	slices.Sort(seqs)
	for _, seq := range seqs {
		reader.off = r.replay.open[seq].offset
		b, err := reader.next()
		if err != nil {
			return err
		}
		i := seq - b.first
		if seq < b.first || i >= uint64(len(b.frames)) || b.frames[i].typ != frameOpen {
			return &damage{reader.off, fmt.Errorf("the decision of record %d is not there", seq)}
		}
		rec, err := recordOf(b.frames[i])
		if err != nil {
			return err
		}
		o := opened{subject: openOf(rec), at: r.replay.open[seq]}
		if rec.Decided != nil {
			o.reserve = min(reserveFor(rec.Decided.Decision.Grant), r.log.cfg.maxReserveBytes())
		}
		r.log.unended = append(r.log.unended, o.subject)
		r.log.writer.open[seq] = o
		r.log.writer.reserved += o.reserve
	}
	return nil
}
