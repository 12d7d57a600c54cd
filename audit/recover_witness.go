package audit

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
)

// ask adds what a witness keeps of this log. A witness that does not answer, or
// answers what the log's key did not sign, proves nothing: the log is opened
// without it.
func (r *recovery) ask(w Witness) {
	logger := r.log.cfg.Logger
	kept, err := askWitness(w)
	if err != nil {
		logger.Warn("audit log witness cannot be asked, the log is opened without it", "witness", w.Name(), "error", err)
		return
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
			logger.Warn("audit log witness has a checkpoint that does not count, look who can write there", "witness", w.Name(), "error", err)
		}
		return nil
	})
	if len(r.witnessed) == 0 && others > 0 {
		logger.Warn("audit log witness knows other logs and not this one: if this is not a new log, its folder was replaced", "witness", w.Name(), "checkpoints", others, "log", r.log.id.origin())
	}
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
	for _, stated := range r.unequal {
		if stated.file != "" {
			return fmt.Errorf("open the audit log: the first %d records in %s are not those of the checkpoint that the witness %s has: the log was rewritten, or goes on from an older copy; %s",
				stated.size, r.log.cfg.Dir, stated.file, advice)
		}
	}
	return nil
}
