package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// frameType says what a frame holds. The types from frameRecord on are leaves
// of the tree, and their values are part of what is proven: they never change.
type frameType uint8

const (
	frameSegment frameType = 1 // header of a segment
	frameBatch   frameType = 2 // header of a batch

	frameRecord frameType = 16 // a record without consequences for others
	frameOpen   frameType = 17 // a decision that allows: an end must follow
	frameClose  frameType = 18 // an end; ref is its decision's number
	frameGap    frameType = 19 // names void numbers
	// frameRemoved is a record of removed segments; ref is the number from which
	// the log is kept.
	frameRemoved frameType = 24

	// frameVoid is the type of leaf that stands for a void number. No frame has it.
	frameVoid frameType = 255
)

const (
	frameHeaderBytes = 4 + 4 + 1 + 8
	saltBytes        = 16
	// recordHeaderBytes is what stands before the payload in a record's body.
	recordHeaderBytes = 8 + saltBytes
	// maxBodyBytes bounds what a length may claim, so that a damaged length
	// cannot make a reader allocate.
	maxBodyBytes = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is one decoded frame. Its body is a part of the buffer it was decoded
// from.
type frame struct {
	typ  frameType
	seq  uint64
	body []byte
}

// isLeaf reports whether the frame is a record.
func (f frame) isLeaf() bool {
	return f.typ >= frameRecord && f.typ <= frameGap || f.typ == frameRemoved
}

// ref returns the number that a record's frame refers to. It may be called on
// frames that isLeaf accepts, as may salted and payload.
func (f frame) ref() uint64 { return binary.LittleEndian.Uint64(f.body) }

// salted returns the bytes whose hash is in the leaf: the salt and the payload.
func (f frame) salted() []byte { return f.body[8:] }

// payload returns the record as JSON.
func (f frame) payload() []byte { return f.body[recordHeaderBytes:] }

var (
	errShortFrame = errors.New("the frame is cut short")
	errZeroFrame  = errors.New("there is no frame, only zeros")
)

// decodeFrame decodes the frame that data begins with and returns its size in
// bytes. It never panics, whatever data holds.
func decodeFrame(data []byte) (frame, int, error) {
	if len(data) < frameHeaderBytes {
		return frame{}, 0, errShortFrame
	}
	length := binary.LittleEndian.Uint32(data)
	sum := binary.LittleEndian.Uint32(data[4:])
	typ := frameType(data[8])
	if length == 0 && sum == 0 && typ == 0 {
		return frame{}, 0, errZeroFrame
	}
	if length > maxBodyBytes {
		return frame{}, 0, fmt.Errorf("the frame claims %d bytes, more than the %d allowed", length, maxBodyBytes)
	}
	end := frameHeaderBytes + int(length)
	if len(data) < end {
		return frame{}, 0, errShortFrame
	}
	if sum != frameSum(data[:end]) {
		return frame{}, 0, errors.New("the frame's checksum does not match its bytes")
	}
	f := frame{typ: typ, seq: binary.LittleEndian.Uint64(data[9:]), body: data[frameHeaderBytes:end]}
	switch {
	case typ == frameSegment || typ == frameBatch:
	case !f.isLeaf():
		return frame{}, 0, fmt.Errorf("the frame has the unknown type %d", typ)
	case length < recordHeaderBytes:
		return frame{}, 0, errors.New("the record's frame is too short to hold a record")
	}
	return f, end, nil
}

// frameSum returns the checksum of an encoded frame: of all of it but the
// checksum itself.
func frameSum(encoded []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, encoded[:4]), castagnoli, encoded[8:])
}

// beginFrame appends a frame's header to buf. The body is appended by the
// caller, who then calls endFrame with the length that buf had before.
func beginFrame(buf []byte, typ frameType, seq uint64) []byte {
	buf = append(buf, 0, 0, 0, 0, 0, 0, 0, 0, byte(typ))
	return binary.LittleEndian.AppendUint64(buf, seq)
}

// endFrame fills in length and checksum of the frame that begins at start and
// ends where buf does.
func endFrame(buf []byte, start int) {
	encoded := buf[start:]
	binary.LittleEndian.PutUint32(encoded, uint32(len(encoded)-frameHeaderBytes))
	binary.LittleEndian.PutUint32(encoded[4:], frameSum(encoded))
}

// ownFrame splits off the first frame of what this process encoded itself,
// without checking it again.
func ownFrame(encoded []byte) (frame, int) {
	end := frameHeaderBytes + int(binary.LittleEndian.Uint32(encoded))
	return frame{
		typ: frameType(encoded[8]), seq: binary.LittleEndian.Uint64(encoded[9:]),
		body: encoded[frameHeaderBytes:end],
	}, end
}
