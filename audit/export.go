package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ExportFormat is the value of the first line's format.
const ExportFormat = "execgate/audit-export/1"

// exportHead is the first line of an export.
type exportHead struct {
	Format string `json:"format"`
	// From and To are the first number and the last.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Left are the roots of the complete subtrees before From, the largest first,
	// one for each bit of From that is set.
	Left         []tlog.Hash `json:"left"`
	Checkpoint   string      `json:"checkpoint"`
	KeyRotations []string    `json:"key_rotations,omitempty"`
}

// exportLine is one number. Of a void one only seq, frame_type and leaf are there.
// Lines are compared with what this struct encodes to, so that nothing can stand in
// one that is not proven.
type exportLine struct {
	Seq       uint64          `json:"seq"`
	FrameType uint8           `json:"frame_type"`
	Ref       uint64          `json:"ref"`
	Salt      []byte          `json:"salt,omitempty"`
	Leaf      tlog.Hash       `json:"leaf"`
	Record    json.RawMessage `json:"record,omitempty"`
}

// exportFoot is the last line.
type exportFoot struct {
	// Right are the roots of the subtrees between To and the checkpoint's size, in
	// order: each the largest that is complete there.
	Right []tlog.Hash `json:"right"`
}

// Range says which records to export: those from one number, or from the first
// that has at least a time, to another, or to the last that has at most a time.
// Times are the records' own, so that the range is the smallest that holds every
// record between them, whatever the clock did.
type Range struct {
	From, To         *uint64 // nil: the log's beginning, the checkpoint's end
	FromTime, ToTime time.Time
	Checkpoint       []byte // to prove against; nil for the latest
}

// ExportSummary says what Export wrote.
type ExportSummary struct {
	From, To uint64 // numbers, To included
	Size     uint64 // of the checkpoint
}

// Export writes records of the log in dir, which may be in use or a copy, as JSON
// lines with the proof that they are all there is between two numbers, unaltered.
// It keeps one batch and some hashes in memory. Where it returns an error, what it
// wrote is of no use.
func Export(w io.Writer, dir, verifier string, r Range) (ExportSummary, error) {
	v, err := openView(dir, verifier, r.Checkpoint)
	if err != nil {
		return ExportSummary{}, err
	}
	from, to, err := v.resolve(r)
	if err != nil {
		return ExportSummary{}, err
	}
	need, right := nodes{}, []int64{}
	at := to + 1
	for _, level := range subtreesBetween(at, v.stated.size) {
		index := tlog.StoredHashIndex(level, int64(at>>level))
		right, need[index] = append(right, index), tlog.Hash{}
		at += 1 << level
	}
	out := bufio.NewWriterSize(w, 1<<16)
	err = v.follow(from, func(t *tree, f frame) error {
		if f.seq < from || f.seq > to {
			return nil
		}
		if f.seq == from {
			head := exportHead{
				Format: ExportFormat, From: from, To: to, Left: t.peaks(),
				Checkpoint: string(v.signed), KeyRotations: v.rotations,
			}
			if err := writeLine(out, head); err != nil {
				return err
			}
		}
		return writeExported(out, f)
	}, need.see)
	if err != nil {
		return ExportSummary{}, err
	}
	var foot exportFoot
	if foot.Right, err = need.ReadHashes(right); err != nil {
		return ExportSummary{}, err
	}
	if err := errors.Join(writeLine(out, foot), out.Flush()); err != nil {
		return ExportSummary{}, fmt.Errorf("write the export: %w", err)
	}
	return ExportSummary{From: from, To: to, Size: v.stated.size}, nil
}

// resolve returns the first and the last number of a range.
func (v *view) resolve(r Range) (from, to uint64, err error) {
	if v.stated.size == 0 {
		return 0, 0, errors.New("there is nothing to export: the checkpoint covers no record")
	}
	to = v.stated.size - 1
	if len(v.links) > 0 && v.links[0].fault == nil {
		from = v.links[0].header.tree.size
	}
	if r.From != nil {
		from = *r.From
	}
	if r.To != nil {
		to = *r.To
	}
	if !r.FromTime.IsZero() || !r.ToTime.IsZero() {
		if from, to, err = v.between(from, to, r.FromTime, r.ToTime); err != nil {
			return 0, 0, err
		}
	}
	if from > to {
		return 0, 0, fmt.Errorf("there is nothing to export: record %d is after record %d", from, to)
	}
	return from, to, v.covers(to)
}

// between narrows a range to the smallest that holds every record with a time from
// begin to end; a zero time bounds nothing.
func (v *view) between(from, to uint64, begin, end time.Time) (first, last uint64, err error) {
	found := false
	err = v.follow(from, func(_ *tree, f frame) error {
		if f.seq < from || f.seq > to || f.typ == frameVoid {
			return nil
		}
		at, err := timeOf(f)
		if err != nil {
			return err
		}
		if at.Before(begin) || !end.IsZero() && at.After(end) {
			return nil
		}
		if !found {
			found, first = true, f.seq
		}
		last = f.seq
		return nil
	}, nil)
	if err == nil && !found {
		err = errors.New("there is nothing to export: no record has a time in that range")
	}
	if begin.IsZero() {
		first = from
	}
	if end.IsZero() {
		last = to
	}
	return first, last, err
}

// timeOf returns a record's time.
func timeOf(f frame) (time.Time, error) {
	var rec struct {
		Time time.Time `json:"time"`
	}
	if err := json.Unmarshal(f.payload(), &rec); err != nil {
		return time.Time{}, fmt.Errorf("decode record %d: %w", f.seq, err)
	}
	return rec.Time, nil
}

// writeExported writes the line of one number.
func writeExported(w *bufio.Writer, f frame) error {
	line := exportLine{Seq: f.seq, FrameType: uint8(f.typ), Leaf: hashFrame(f)}
	if f.typ != frameVoid {
		line.Ref, line.Salt, line.Record = f.ref(), f.body[8:recordHeaderBytes], f.payload()
		if bytes.ContainsAny(line.Record, "\n\r") || !json.Valid(line.Record) {
			return fmt.Errorf("record %d is not JSON on one line", f.seq)
		}
	}
	_, err := w.Write(append(line.append(nil), '\n'))
	return err
}

// append appends the line without its end. encoding/json would compact the record
// and escape in it, and its bytes are what is proven.
func (l *exportLine) append(buf []byte) []byte {
	buf = fmt.Appendf(buf, `{"seq":%d,"frame_type":%d`, l.Seq, l.FrameType)
	if l.Record != nil {
		buf = fmt.Appendf(buf, `,"ref":%d,"salt":"`, l.Ref)
		buf = base64.StdEncoding.AppendEncode(buf, l.Salt)
		buf = append(buf, '"')
	}
	buf = append(buf, `,"leaf":"`...)
	buf = base64.StdEncoding.AppendEncode(buf, l.Leaf[:])
	buf = append(buf, '"')
	if l.Record != nil {
		buf = append(append(buf, `,"record":`...), l.Record...)
	}
	return append(buf, '}')
}

func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// leftTree returns the tree before From.
func (h *exportHead) leftTree() (tree, error) {
	if len(h.Left) != bits.OnesCount64(h.From) {
		return tree{}, fmt.Errorf("record %d needs %d hashes before it, and there are %d", h.From, bits.OnesCount64(h.From), len(h.Left))
	}
	return treeOf(h.From, h.Left), nil
}
