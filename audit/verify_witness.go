package audit

import (
	"fmt"
	"os"
)

// rotationsKept returns the rotations of the key that the files of witnesses have.
func (v *verification) rotationsKept() (rotations []keyRotation, err error) {
	for _, path := range v.witnesses {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the witness: %w", err)
		}
		rotations = append(rotations, rotationsKept(f, v.ring.origin(), path)...)
		f.Close()
	}
	return rotations, nil
}

// witness reads the checkpoints that a witness kept in a file, for the log to be
// held against. What of them does not count is reported.
func (v *verification) witness(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the witness: %w", err)
	}
	defer f.Close()
	var before signedTree
	found := false
	err = readKept(f, func(c keptCheckpoint) error {
		if c.origin != v.ring.origin() {
			return nil // one file may be the witness of several logs
		}
		stated, err := v.ring.open(c.text)
		switch {
		case err != nil && !c.whole:
			v.report.Integrity.note(path, c.offset, "line %d: a checkpoint was not written to its end", c.line)
			return nil
		case err != nil:
			v.report.Integrity.find(path, c.offset, "line %d: %v", c.line, err)
			return nil
		case found && stated.size < before.size:
			v.report.Integrity.find(path, c.offset, "line %d: a checkpoint of %d records follows one of %d: the log was rolled back between them, or the file was altered", c.line, stated.size, before.size)
		}
		stated.file = path
		if !found || stated.size != before.size || stated.root != before.root {
			v.replay.expect = append(v.replay.expect, stated)
		}
		found, before = true, stated
		v.report.Covered = max(v.report.Covered, stated.size)
		v.report.Witnessed = max(v.report.Witnessed, stated.size)
		return nil
	})
	if err == nil && !found {
		v.report.Integrity.find(path, 0, "the witness has no checkpoint of this log")
	}
	return err
}
