package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
)

// ask adds what a witness keeps of this log. A witness that does not answer, or
// answers nonsense, proves nothing: the log is opened without it.
func (r *recovery) ask(w Witness) {
	logger := r.log.cfg.Logger
	kept, err := askWitness(w)
	if err != nil {
		logger.Warn("audit log witness cannot be asked, the log is opened without it", "witness", w.Name(), "error", err)
		return
	}
	for _, err := range r.ring.follow(rotationsKept(bytes.NewReader(kept), r.log.id.origin(), w.Name())) {
		logger.Warn("audit log witness has a rotation of the key that does not count, look who can write there", "witness", w.Name(), "error", err)
	}
	others := 0
	// The error is of reading, and there is none from memory.
	_ = readKept(bytes.NewReader(kept), func(c keptCheckpoint) error {
		if c.origin != r.log.id.origin() {
			others++
			return nil
		}
		stated, err := r.ring.open(c.text)
		if err == nil {
			stated.file = w.Name()
			r.witnessed = append(r.witnessed, stated)
		} else if c.whole {
			r.claim(w, c.text)
			logger.Warn("audit log witness has a checkpoint that does not count, look who can write there", "witness", w.Name(), "error", err)
		}
		return nil
	})
	if len(r.witnessed) == 0 && others > 0 {
		logger.Warn("audit log witness knows other logs and not this one: if this is not a new log, its folder was replaced", "witness", w.Name(), "checkpoints", others, "log", r.log.id.origin())
	}
}

// claim takes note of a checkpoint that no key signed which the log knows. It may be
// made up, or by the key after the one that is here, where the state folder is from
// before a rotation.
func (r *recovery) claim(w Witness, signed []byte) {
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	stated, err := parseCheckpoint(string(text)+"\n", r.log.id.origin())
	if err == nil && stated.size > r.claimed.size {
		stated.file = w.Name()
		r.claimed = stated
	}
}

// rotationsKept returns the rotations of one log's key among checkpoints that are
// kept; from names where, for errors.
func rotationsKept(r io.Reader, origin, from string) (rotations []keyRotation) {
	// What cannot be read here is not read after it either, and said there.
	_ = readKept(r, func(c keptCheckpoint) error {
		if rotation, ok := rotationOf(c.text); ok && c.origin == origin {
			rotation.file = fmt.Sprintf("%s, line %d", from, c.line)
			rotations = append(rotations, rotation)
		}
		return nil
	})
	return rotations
}

// askWitness waits for a witness, but not for one that hangs.
func askWitness(w Witness) ([]byte, error) {
	type answer struct {
		kept []byte
		err  error
	}
	ctx, cancel := context.WithTimeout(context.Background(), witnessTimeout)
	defer cancel()
	answered := make(chan answer, 1)
	go func() {
		kept, err := w.Kept(ctx)
		answered <- answer{kept, err}
	}()
	select {
	case a := <-answered:
		return a.kept, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

// compareWitnessed holds the log, of size records, against what witnesses keep.
func (r *recovery) compareWitnessed(size uint64) error {
	advice := fmt.Sprintf("restore %s from a copy that has them; if they are lost for good, keep the folder for examination and begin a new log by moving it and %s away, which the witness will tell from this one",
		r.log.cfg.Dir, filepath.Join(r.log.cfg.KeyDir, "audit.*"))
	var longest signedTree
	for _, stated := range r.witnessed {
		if stated.size > longest.size {
			longest = stated
		}
	}
	if longest.size > size {
		return fmt.Errorf("open the audit log: the witness %s has its checkpoint of %d records, and %s holds %d: the last records were cut off, or the whole folder was rolled back; %s",
			longest.file, longest.size, r.log.cfg.Dir, size, advice)
	}
	if r.claimed.size > size {
		return fmt.Errorf("open the audit log: the witness %s has a checkpoint of %d records of this log by a key that is not known here, and %s holds %d: the state folder is from before a rotation of the key, or somebody else writes to the witness: compare them with execgate audit verify --witness and the log's newest public key; %s; where it was made up, name another witness, or have the entry removed",
			r.claimed.file, r.claimed.size, r.log.cfg.Dir, size, advice)
	}
	for _, stated := range r.unequal {
		if stated.file != "" {
			return fmt.Errorf("open the audit log: the first %d records in %s are not those of the checkpoint that the witness %s has: the log was rewritten, or goes on from an older copy; %s",
				stated.size, r.log.cfg.Dir, stated.file, advice)
		}
	}
	return nil
}

// lastWitnessed returns the size up to which the log, which begins at number first,
// must be read for the newest checkpoint of each witness to be compared; maxSeq where
// there is none. What retention removed can be compared with none.
func (r *recovery) lastWitnessed(first uint64) uint64 {
	newest := map[string]uint64{}
	for _, stated := range r.witnessed {
		newest[stated.file] = max(newest[stated.file], stated.size)
	}
	size := uint64(maxSeq)
	for witness, of := range newest {
		if of < first {
			r.log.cfg.Logger.Warn("audit log witness has no checkpoint of what is kept, the log is opened without it", "witness", witness, "records", of, "oldest", first)
			continue
		}
		size = min(size, of)
	}
	return size
}
