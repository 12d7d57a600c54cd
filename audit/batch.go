package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// batchMagic begins the body of a batch's header. It holds bytes that JSON
// cannot, so that looking for it never finds a payload.
const batchMagic = "\x00BATCH\x01\n"

const (
	batchBodyBytes   = len(batchMagic) + 4 + 4 + 8
	batchHeaderBytes = frameHeaderBytes + batchBodyBytes
)

// batchHeader precedes the records that were written by one pwrite.
type batchHeader struct {
	first   uint64 // number of the first record
	count   uint32 // records
	bytes   uint32 // size of the records' frames
	durable uint64 // numbers known to be durable, or void, before this batch was written
}

// putBatchHeader writes h over the first batchHeaderBytes of buf.
func putBatchHeader(buf []byte, h batchHeader) {
	b := beginFrame(buf[:0], frameBatch, h.first)
	b = append(b, batchMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.count)
	b = binary.LittleEndian.AppendUint32(b, h.bytes)
	b = binary.LittleEndian.AppendUint64(b, h.durable)
	endFrame(b, 0)
}

// parseBatchHeader returns the header that f holds.
func parseBatchHeader(f frame) (batchHeader, error) {
	if f.typ != frameBatch {
		return batchHeader{}, fmt.Errorf("a frame of type %d stands where a batch should begin", f.typ)
	}
	if len(f.body) != batchBodyBytes || string(f.body[:len(batchMagic)]) != batchMagic {
		return batchHeader{}, errors.New("the batch's header is malformed")
	}
	rest := f.body[len(batchMagic):]
	h := batchHeader{
		first:   f.seq,
		count:   binary.LittleEndian.Uint32(rest),
		bytes:   binary.LittleEndian.Uint32(rest[4:]),
		durable: binary.LittleEndian.Uint64(rest[8:]),
	}
	if h.count == 0 || h.bytes > maxBodyBytes || h.first+uint64(h.count) < h.first {
		return batchHeader{}, errors.New("the batch's header is out of bounds")
	}
	return h, nil
}

// batch is one decoded batch.
type batch struct {
	batchHeader
	offset int64 // in its segment
	frames []frame
}

// end returns the offset at which the batch ends.
func (b batch) end() int64 { return b.offset + int64(batchHeaderBytes) + int64(b.bytes) }

// next returns the number after the batch's last.
func (b batch) next() uint64 { return b.first + uint64(b.count) }

// damage is a place in a segment that does not hold what it should.
type damage struct {
	offset int64
	err    error
}

func (d *damage) Error() string { return fmt.Sprintf("offset %d: %v", d.offset, d.err) }
func (d *damage) Unwrap() error { return d.err }

// decodeRecords decodes the records of a batch, which are the whole of data,
// into b.frames. Every fault is a damage that says where.
func (b *batch) decodeRecords(data []byte) error {
	b.frames = b.frames[:0]
	at := b.offset + int64(batchHeaderBytes)
	for seq := b.first; len(data) > 0; seq++ {
		f, n, err := decodeFrame(data)
		switch {
		case err != nil:
			return &damage{at, err}
		case !f.isLeaf():
			return &damage{at, fmt.Errorf("a frame of type %d stands inside a batch", f.typ)}
		case f.seq != seq:
			return &damage{at, fmt.Errorf("record %d stands where record %d should", f.seq, seq)}
		}
		b.frames = append(b.frames, f)
		data, at = data[n:], at+int64(n)
	}
	if len(b.frames) != int(b.count) {
		return &damage{at, fmt.Errorf("the batch holds %d records and its header says %d", len(b.frames), b.count)}
	}
	return nil
}
