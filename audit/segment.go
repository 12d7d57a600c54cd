package audit

import (
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
	segmentMagic   = "execgate audit segment\x00\x01"
	logIDBytes     = 16
	segmentSuffix  = ".segment"
	spareSuffix    = ".spare"
	segmentDigits  = 10
	maxHeaderBytes = frameHeaderBytes + len(segmentMagic) + logIDBytes + 4*8 + 64*tlog.HashSize
)

// segmentHeader is the first frame of a segment.
type segmentHeader struct {
	logID [logIDBytes]byte
	index uint64 // of this segment; rises, and is never used twice
	prev  uint64 // index of the segment before; 0 for the first
	// prevEnd is where the valid bytes of the segment before end. What follows
	// there is zeros, or void.
	prevEnd int64
	// tree is the state before the segment's first record. Where that record is
	// a gap, its void numbers are not in it.
	tree tree
}

// encodeSegmentHeader returns h as a frame.
func encodeSegmentHeader(h segmentHeader) []byte {
	buf := beginFrame(nil, frameSegment, h.tree.size)
	buf = append(buf, segmentMagic...)
	buf = append(buf, h.logID[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, h.index)
	buf = binary.LittleEndian.AppendUint64(buf, h.prev)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.prevEnd))
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
	const fixed = len(segmentMagic) + logIDBytes + 3*8
	if f.typ != frameSegment || len(f.body) < fixed || string(f.body[:len(segmentMagic)]) != segmentMagic {
		return segmentHeader{}, 0, errors.New("the segment does not begin with a header of this version")
	}
	rest := f.body[len(segmentMagic):]
	var h segmentHeader
	copy(h.logID[:], rest)
	rest = rest[logIDBytes:]
	h.index = binary.LittleEndian.Uint64(rest)
	h.prev = binary.LittleEndian.Uint64(rest[8:])
	h.prevEnd = int64(binary.LittleEndian.Uint64(rest[16:]))
	rest = rest[24:]
	if h.prevEnd < 0 || h.prev >= h.index || f.seq >= maxSeq || len(rest) != bits.OnesCount64(f.seq)*tlog.HashSize {
		return segmentHeader{}, 0, errors.New("the segment's header is out of bounds")
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
	data, err := readHead(fsys, filepath.Join(dir, segmentName(index)), maxHeaderBytes)
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
