package audit

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	segmentMagic  = "execgate audit segment\x00\x02"
	logIDBytes    = 16
	segmentSuffix = ".segment"
	spareSuffix   = ".spare"
	segmentDigits = 10
	// maxHeaderBytes is the size of a header without its open decisions.
	maxHeaderBytes = frameHeaderBytes + len(segmentMagic) + logIDBytes + 5*8 + 4 + 64*tlog.HashSize
	// openBytes is what one open decision takes in a header.
	openBytes = 3 * 8
	// maxListedBytes is the most that a header's open decisions may take.
	maxListedBytes = 2 << 20
	// notListed stands in the place of their number where they are too many.
	notListed = 1<<32 - 1
)

// segmentHeader is the first frame of a segment.
type segmentHeader struct {
	logID [logIDBytes]byte
	index uint64 // of this segment; rises, and is never used twice
	prev  uint64 // index of the segment before; 0 for the first
	// prevEnd is where the valid bytes of the segment before end. What follows
	// there is zeros, or void.
	prevEnd int64
	begun   int64 // when it began, and the one before it was sealed: Unix time in nanoseconds
	// kept is the number from which retention had left the log, as it was recorded.
	kept uint64
	// open are the decisions that were open, by number; listed is not set where
	// they were too many to list.
	open   []openPlace
	listed bool
	// tree is the state before the segment's first record. Where that record is
	// a gap, its void numbers are not in it.
	tree tree
}

// openPlace is a decision that has no end yet, and where it stands.
type openPlace struct {
	seq uint64
	place
}

// listOpen sets the open decisions, if a segment of size bytes has room for them.
func (h *segmentHeader) listOpen(open []openPlace, size int64) {
	if h.listed = int64(len(open)*openBytes) <= min(maxListedBytes, size/16); h.listed {
		slices.SortFunc(open, func(a, b openPlace) int { return cmp.Compare(a.seq, b.seq) })
		h.open = open
	}
}

// encodeSegmentHeader returns h as a frame.
func encodeSegmentHeader(h segmentHeader) []byte {
	buf := beginFrame(nil, frameSegment, h.tree.size)
	buf = append(buf, segmentMagic...)
	buf = append(buf, h.logID[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, h.index)
	buf = binary.LittleEndian.AppendUint64(buf, h.prev)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.prevEnd))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.begun))
	buf = binary.LittleEndian.AppendUint64(buf, h.kept)
	if h.listed {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(h.open)))
	} else {
		buf = binary.LittleEndian.AppendUint32(buf, notListed)
	}
	for _, o := range h.open {
		buf = binary.LittleEndian.AppendUint64(buf, o.seq)
		buf = binary.LittleEndian.AppendUint64(buf, o.segment)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(o.offset))
	}
	for _, hash := range h.tree.peaks() {
		buf = append(buf, hash[:]...)
	}
	endFrame(buf, 0)
	return buf
}

// decodeSegmentHeader decodes the header that data begins with and returns its
// size in bytes.
func decodeSegmentHeader(data []byte) (segmentHeader, int, error) {
	f, n, err := decodeFrame(data)
	if err != nil {
		return segmentHeader{}, 0, err
	}
	const fixed = len(segmentMagic) + logIDBytes + 5*8 + 4
	if f.typ != frameSegment || len(f.body) < fixed || string(f.body[:len(segmentMagic)]) != segmentMagic {
		return segmentHeader{}, 0, errors.New("the segment does not begin with a header of this version")
	}
	rest := f.body[len(segmentMagic):]
	var h segmentHeader
	copy(h.logID[:], rest)
	rest = rest[logIDBytes:]
	next := func() uint64 {
		n := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		return n
	}
	h.index, h.prev, h.prevEnd, h.begun, h.kept = next(), next(), int64(next()), int64(next()), next()
	count := binary.LittleEndian.Uint32(rest)
	rest = rest[4:]
	outOfBounds := errors.New("the segment's header is out of bounds")
	if h.listed = count != notListed; h.listed {
		if uint64(count)*openBytes > uint64(len(rest)) {
			return segmentHeader{}, 0, outOfBounds
		}
		for range count {
			o := openPlace{next(), place{next(), int64(next())}}
			if n := len(h.open); o.seq >= f.seq || o.offset < 0 || o.segment == 0 || o.segment > h.prev || n > 0 && o.seq <= h.open[n-1].seq {
				return segmentHeader{}, 0, outOfBounds
			}
			h.open = append(h.open, o)
		}
	}
	if h.prevEnd < 0 || h.prev >= h.index || h.kept > f.seq || f.seq >= maxSeq || len(rest) != bits.OnesCount64(f.seq)*tlog.HashSize {
		return segmentHeader{}, 0, outOfBounds
	}
	var peaks []tlog.Hash
	for ; len(rest) > 0; rest = rest[tlog.HashSize:] {
		peaks = append(peaks, tlog.Hash(rest[:tlog.HashSize]))
	}
	h.tree = treeOf(f.seq, peaks)
	return h, n, nil
}

// segmentName returns the name of the file that holds segment index.
func segmentName(index uint64) string {
	return fmt.Sprintf("%0*d%s", segmentDigits, index, segmentSuffix)
}

// segmentIndex is the inverse of segmentName.
func segmentIndex(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	index, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || index == 0 || segmentName(index) != name {
		return 0, false
	}
	return index, true
}

// listSegments returns the indexes of the segments in dir, in order.
func listSegments(fsys FileSystem, dir string) ([]uint64, error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the log's folder: %w", err)
	}
	var indexes []uint64
	for _, name := range names {
		if index, ok := segmentIndex(name); ok {
			indexes = append(indexes, index)
		}
	}
	slices.Sort(indexes)
	return indexes, nil
}

// readSegmentHeader reads the header of segment index in dir and returns the
// offset of what follows it.
func readSegmentHeader(fsys FileSystem, dir string, index uint64) (segmentHeader, int64, error) {
	path := filepath.Join(dir, segmentName(index))
	data, err := readHead(fsys, path, maxHeaderBytes)
	if err == nil && len(data) == maxHeaderBytes {
		// The length says how much more there is, if it is a header's.
		if more := binary.LittleEndian.Uint32(data); more > uint32(maxHeaderBytes-frameHeaderBytes) && more <= maxListedBytes+uint32(maxHeaderBytes) {
			data, err = readHead(fsys, path, frameHeaderBytes+int(more))
		}
	}
	if err != nil {
		return segmentHeader{}, 0, err
	}
	h, n, err := decodeSegmentHeader(data)
	if err != nil {
		return segmentHeader{}, 0, &damage{0, err}
	}
	if h.index != index {
		return segmentHeader{}, 0, &damage{0, fmt.Errorf("the segment's header says it is segment %d", h.index)}
	}
	return h, int64(n), nil
}
