package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// Recent yields the decisions that allowed, the leases that were issued, and the ends,
// that the log in dir has from since on: those of a segment in their order, later
// segments first. It reads
// no segment that ended before, and checks nothing: it is for what the gateway
// counts, not for proofs. It yields one error at most, as the last.
func Recent(dir string, since time.Time) iter.Seq2[execution.Record, error] {
	marked := []byte(`"type":"` + execution.RecordLeaseIssued + `"`)
	candidates := recent(dir, since, func(f frame) bool {
		return f.typ == frameOpen || f.typ == frameClose || f.typ == frameRecord && bytes.Contains(f.payload(), marked)
	})
	return func(yield func(execution.Record, error) bool) {
		for r, err := range candidates {
			// Others may hold the mark, as in Decisions.
			wanted := err != nil || r.Type == execution.RecordLeaseIssued || r.Ended != nil || r.Decided != nil && r.Decided.Decision.Allowed()
			if wanted && !yield(r, err) {
				return
			}
		}
	}
}

// Decisions yields every decision that the log in dir has from since on, as Recent
// does.
func Decisions(dir string, since time.Time) iter.Seq2[execution.Record, error] {
	marked := []byte(`"type":"` + execution.RecordDecided + `"`)
	candidates := recent(dir, since, func(f frame) bool {
		return f.typ == frameOpen || f.typ == frameRecord && bytes.Contains(f.payload(), marked)
	})
	return func(yield func(execution.Record, error) bool) {
		for r, err := range candidates {
			// Others may hold the mark: a read of the log that asked for it.
			if (err != nil || r.Type == execution.RecordDecided) && !yield(r, err) {
				return
			}
		}
	}
}

func recent(dir string, since time.Time, wanted func(frame) bool) iter.Seq2[execution.Record, error] {
	return func(yield func(execution.Record, error) bool) {
		links, err := chain(osFileSystem{}, dir)
		if err != nil {
			yield(execution.Record{}, err)
			return
		}
		for i, l := range slices.Backward(links) {
			earlier := false
			err := readLink(dir, l, i == len(links)-1, func(b *batch) error {
				for _, f := range b.frames {
					if !wanted(f) {
						continue
					}
					rec, err := recordOf(f)
					if err != nil {
						return &damage{b.offset, err}
					}
					if rec.Time.Before(since) {
						earlier = true
					} else if !yield(rec, nil) {
						return errStop
					}
				}
				return nil
			})
			if err == errStop || err == nil && earlier || errors.Is(err, fs.ErrNotExist) {
				return // what is not there retention removed meanwhile, with all before it
			}
			if err != nil {
				yield(execution.Record{}, fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, l.name()), err))
				return
			}
		}
	}
}
