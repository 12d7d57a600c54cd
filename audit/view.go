package audit

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

// view is a log as proofs are made from it: read alone, up to one checkpoint.
type view struct {
	dir   string
	ring  *keyring
	links []link
	// signed is the checkpoint, and stated what it says.
	signed []byte
	stated signedTree
	// rotations are the signed rotations of the log's key: a proof carries them, so that
	// whoever trusts any of the keys can check it.
	rotations []string
}

// openView opens the log in dir, which may be in use or a copy, at the checkpoint
// that is given, or at its latest where that is nil. The error says what is wrong
// with checkpoint or log.
func openView(dir, verifier string, checkpoint []byte) (*view, error) {
	ring, err := newKeyring(verifier)
	if err != nil {
		return nil, err
	}
	v := &view{dir: dir, ring: ring, signed: checkpoint}
	files, err := listCheckpoints(osFileSystem{}, dir)
	if err != nil {
		return nil, err
	}
	rotations := rotationsIn(files)
	for _, err := range ring.follow(rotations) {
		return nil, err
	}
	for _, c := range rotations {
		if old := ring.find(c.old); old != nil && old.next == c.new && c.file != checkpointName {
			v.rotations = append(v.rotations, string(c.signed))
		}
	}
	name := "the checkpoint"
	if checkpoint == nil {
		name = filepath.Join(dir, checkpointName)
		if v.signed, err = readHead(osFileSystem{}, name, maxCheckpointBytes); err != nil {
			return nil, fmt.Errorf("read the log's latest checkpoint: %w", err)
		}
	}
	if v.stated, err = ring.open(v.signed); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	v.stated.file = name
	// The records are listed after the checkpoint was read, so that those it
	// covers are among them.
	v.links, err = chain(osFileSystem{}, dir)
	return v, err
}

// covers says whether the checkpoint covers record seq, by an error that says what
// to do where it does not.
func (v *view) covers(seq uint64) error {
	if seq < v.stated.size {
		return nil
	}
	return fmt.Errorf("record %d is not covered by %s, which ends before record %d: of a log in use the next checkpoint covers it, a second later", seq, v.stated.file, v.stated.size)
}

// errCovered ends a reading at the view's checkpoint.
var errCovered = errors.New("the checkpoint is reached")

// follow reads the records from number first on, or from some before it, up to the
// view's checkpoint, with memory for one batch. Each number is shown to each, and
// the subtrees of the tree to see, also those that were complete where the reading
// begins. The error says what is damaged or missing, or that the records are not
// those that the checkpoint states.
func (v *view) follow(first uint64, each func(tree *tree, f frame) error, see seer) error {
	start := -1
	for i, l := range v.links {
		if l.fault == nil && l.header.tree.size <= first {
			start = i
		}
	}
	if start < 0 {
		if len(v.links) == 0 || v.links[0].fault != nil {
			return fmt.Errorf("%s: there is no log that begins at record 0", v.dir)
		}
		return fmt.Errorf("record %d is no longer in the log: it begins at record %d, in %s", first, v.links[0].header.tree.size, v.links[0].name())
	}
	matches := false
	p := replay{see: see, expect: []signedTree{v.stated}}
	p.reached = func(stated signedTree, root tlog.Hash) { matches = stated.root == root }
	p.each = func(f frame) error {
		if p.tree.size == v.stated.size {
			return errCovered
		}
		return each(&p.tree, f)
	}
	p.begin(v.links[start].header)
	p.tree.showPeaks(see)
	for i, l := range v.links[start:] {
		if p.tree.size == v.stated.size {
			break
		}
		last := start+i == len(v.links)-1
		var err error
		switch {
		case l.fault != nil:
			err = l.fault
		case l.orphan && i > 0:
			err = fmt.Errorf("the segment before it, %s, is missing", segmentName(l.header.prev))
		case l.header.logID != v.ring.logID:
			err = errors.New("the segment belongs to another log")
		default:
			if err = p.follows(l.header); err != nil {
				break
			}
			err = readLink(v.dir, l, last, func(b *batch) error { return p.add(l.index, b) })
		}
		if err == errCovered {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(v.dir, l.name()), err)
		}
	}
	if p.tree.size < v.stated.size {
		return fmt.Errorf("%s: the log ends before record %d, and %s covers %d: records are missing", v.dir, p.tree.size, v.stated.file, v.stated.size)
	}
	if !matches {
		return fmt.Errorf("%s: the records are not those that %s states: the log was altered, or the checkpoint is of a fork of it", v.dir, v.stated.file)
	}
	return nil
}

// nodes are hashes of the tree by their index in tlog's storage order.
type nodes map[int64]tlog.Hash

// errCollected ends a proof that was asked for only to learn what it needs.
var errCollected = errors.New("collected")

// need adds what prove asks for.
func (n nodes) need(prove func(tlog.HashReader) error) error {
	err := prove(tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		for _, index := range indexes {
			n[index] = tlog.Hash{}
		}
		return nil, errCollected
	}))
	if errors.Is(err, errCollected) {
		return nil
	}
	return err
}

// see keeps the subtrees that are needed.
func (n nodes) see(level int, index uint64, root tlog.Hash) {
	at := tlog.StoredHashIndex(level, int64(index))
	if _, ok := n[at]; ok {
		n[at] = root
	}
}

// ReadHashes implements tlog.HashReader.
func (n nodes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, index := range indexes {
		hash := n[index]
		if hash == (tlog.Hash{}) {
			return nil, fmt.Errorf("the part of the tree at %d is no longer in the log", index)
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}
