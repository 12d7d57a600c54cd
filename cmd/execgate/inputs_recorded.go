package main

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// Why an input that can be read is not what was decided on.
const (
	whyInputDiffers  = "input_differs"
	whyRecordMissing = "record_missing"
)

// recordedDigests is what the log says of the inputs of decisions, so that what is kept
// beside it can be held against it.
type recordedDigests struct {
	of          map[uint64][16]byte // by the record's number, see digestsOf
	first, last uint64              // the lowest and the highest of these numbers
}

// digestsOf is the half of one digest over both, which there is one of for each decision
// of a long time; zero where the record has none.
func digestsOf(input, answer string) (half [16]byte) {
	if input == "" {
		return half
	}
	sum := sha256.Sum256([]byte(input + " " + answer))
	copy(half[:], sum[:])
	return half
}

// readDigests reads the decisions since a time from the log in a state folder. Where
// that has no log, as a copy of the inputs alone, nothing can be held against it.
func readDigests(state string, since time.Time) (*recordedDigests, error) {
	d := &recordedDigests{of: map[uint64][16]byte{}}
	for r, err := range audit.Decisions(filepath.Join(state, "audit"), since) {
		if errors.Is(err, fs.ErrNotExist) {
			return d, nil
		}
		if err != nil {
			return nil, err
		}
		if len(d.of) == 0 {
			d.first, d.last = r.Seq, r.Seq
		}
		d.first, d.last = min(d.first, r.Seq), max(d.last, r.Seq)
		d.of[r.Seq] = digestsOf(r.Decided.InputSHA256, r.Decided.AnswerSHA256)
	}
	return d, nil
}

// check says what is wrong with an input that was decrypted: an error of KindGone. One
// outside of what the log was read for, or whose record is from before there were
// digests, is not held against anything.
func (d *recordedDigests) check(in store.Input) error {
	recorded, ok := d.of[in.Seq]
	switch {
	case !ok && in.Seq >= d.first && in.Seq <= d.last && len(d.of) > 0:
		return &execution.Error{Kind: execution.KindGone, Code: whyRecordMissing, Detail: "the log has no decision of its number"}
	case !ok || recorded == [16]byte{}:
		return nil
	case recorded != digestsOf(execution.HexSHA256(in.Asked), execution.HexSHA256(in.Answered)):
		return &execution.Error{Kind: execution.KindGone, Code: whyInputDiffers, Detail: "it is not what the record of its decision says"}
	}
	return nil
}
