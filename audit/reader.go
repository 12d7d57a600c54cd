package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// readAhead is how much a segmentReader reads at a time, and firstRead how much the
// first time: a segment may have little in it.
const (
	readAhead = 1 << 20
	firstRead = 64 << 10
)

// segmentReader reads the batches of one segment, with memory for one batch.
type segmentReader struct {
	r     io.ReaderAt
	off   int64 // of the next batch
	limit int64 // where the valid bytes end, or -1: at the zeros that follow the last batch

	window []byte // bytes of the file from windowOff on
	at     int64  // offset of window
	spare  []byte // backing of window
	ahead  int    // how much is read at a time, after the first
	probe  []byte // see batchAfter
	batch  batch
}

// newSegmentReader returns a reader of the batches of r from start on.
func newSegmentReader(r io.ReaderAt, start, limit int64) *segmentReader {
	return &segmentReader{r: r, off: start, limit: limit, at: start, spare: make([]byte, firstRead), ahead: readAhead}
}

// next returns the next batch, which is valid until the next call; io.EOF after
// the last; a *damage where something else stands there, after which off is
// unchanged; or an error of reading.
func (s *segmentReader) next() (*batch, error) {
	if s.limit >= 0 && s.off == s.limit {
		return nil, io.EOF
	}
	head, err := s.peek(batchHeaderBytes)
	if err != nil {
		return nil, err
	}
	if s.limit < 0 && (len(head) < batchHeaderBytes || allZero(head)) {
		end, err := s.lastNonZero()
		if err != nil {
			return nil, err
		}
		if end <= s.off {
			return nil, io.EOF
		}
	}
	f, _, err := decodeFrame(head)
	if err != nil {
		return nil, &damage{s.off, err}
	}
	h, err := parseBatchHeader(f)
	if err != nil {
		return nil, &damage{s.off, err}
	}
	b := &s.batch
	b.batchHeader, b.offset = h, s.off
	if s.limit >= 0 && b.end() > s.limit {
		return nil, &damage{s.off, fmt.Errorf("a batch reaches past %d, where the next segment says this one ends", s.limit)}
	}
	data, err := s.peek(batchHeaderBytes + int(h.bytes))
	if err != nil {
		return nil, err
	}
	if len(data) < batchHeaderBytes+int(h.bytes) {
		return nil, &damage{s.off, errors.New("the file ends within a batch")}
	}
	if err := b.decodeRecords(data[batchHeaderBytes:]); err != nil {
		return nil, err
	}
	s.off = b.end()
	return b, nil
}

// peek returns the n bytes from off on, or fewer where the file ends.
func (s *segmentReader) peek(n int) ([]byte, error) {
	skip := s.off - s.at
	if have := int64(len(s.window)) - skip; skip >= 0 && have >= int64(n) {
		return s.window[skip : skip+int64(n)], nil
	}
	// The window is moved to off; what is already in memory is kept.
	kept := 0
	if skip >= 0 && skip < int64(len(s.window)) {
		kept = copy(s.spare, s.window[skip:])
	}
	if n > len(s.spare) || s.off > s.at && len(s.spare) < s.ahead {
		s.spare = append(make([]byte, 0, n+s.ahead), s.spare[:kept]...)
		s.spare = s.spare[:cap(s.spare)]
	}
	got, err := s.r.ReadAt(s.spare[kept:], s.off+int64(kept))
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read at offset %d: %w", s.off+int64(kept), err)
	}
	s.at, s.window = s.off, s.spare[:kept+got]
	return s.window[:min(n, len(s.window))], nil
}

// forget drops what was read ahead, so that the next batch is read again.
func (s *segmentReader) forget() { s.window = nil }

// scan calls visit with the rest of the file from off on, in pieces of which
// each repeats the last overlap bytes of the one before, until visit returns
// false.
func (s *segmentReader) scan(off int64, overlap int, visit func(at int64, data []byte) bool) error {
	buf := make([]byte, firstRead)
	for {
		n, err := s.r.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read at offset %d: %w", off, err)
		}
		if n == 0 || !visit(off, buf[:n]) || err == io.EOF {
			return nil
		}
		off += int64(n - overlap)
		if len(buf) < readAhead {
			buf = make([]byte, readAhead)
		}
	}
}

// lastNonZero returns the offset after the last byte that is not zero, at or
// after off; or off, where only zeros follow.
func (s *segmentReader) lastNonZero() (int64, error) {
	end := s.off
	err := s.scan(s.off, 0, func(at int64, data []byte) bool {
		if !allZero(data) {
			end = at + int64(len(bytes.TrimRight(data, "\x00")))
		}
		return true
	})
	return end, err
}

// laterBatch returns the offset of the first intact batch header after the
// position off, or -1. One batch is written after the one before it is durable,
// so a later one shows that the bytes at off were, and are damaged.
func (s *segmentReader) laterBatch() (int64, error) {
	found := int64(-1)
	err := s.scan(s.off+1, batchHeaderBytes-1, func(at int64, data []byte) bool {
		for from := 0; ; {
			i := bytes.Index(data[from:], []byte(batchMagic))
			if i < 0 {
				return true
			}
			begin := from + i - frameHeaderBytes
			from += i + 1
			if begin < 0 {
				continue
			}
			f, _, err := decodeFrame(data[begin:])
			if err != nil {
				continue
			}
			if _, err := parseBatchHeader(f); err == nil {
				found = at + int64(begin)
				return false
			}
		}
	})
	return found, err
}

var zeros [4096]byte

func allZero(data []byte) bool {
	for ; len(data) > len(zeros); data = data[len(zeros):] {
		if !bytes.Equal(data[:len(zeros)], zeros[:]) {
			return false
		}
	}
	return bytes.Equal(data, zeros[:len(data)])
}
