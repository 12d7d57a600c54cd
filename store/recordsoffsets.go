package store

import (
	"encoding/binary"
	"math/bits"
)

// The records of a block, and the times in a chunk.
const (
	blockBits  = 14
	blockSize  = 1 << blockBits
	chunkBits  = 10
	chunkSize  = 1 << chunkBits
	bitmapSize = blockSize / 8
	timeBytes  = 8
)

// offsets is a set of the numbers of a block, counted from its first. It is a list of
// them, rising, two bytes each, little endian; or, where that would not be shorter, a
// bitmap of bitmapSize bytes.
type offsets []byte

// add adds an offset that is not below any in it.
func (s offsets) add(offset uint16) offsets {
	if len(s) == bitmapSize {
		s[offset>>3] |= 1 << (offset & 7)
		return s
	}
	if n := len(s); n >= 2 && binary.LittleEndian.Uint16(s[n-2:]) == offset {
		return s
	}
	if len(s)+2 < bitmapSize {
		return binary.LittleEndian.AppendUint16(s, offset)
	}
	bitmap := make(offsets, bitmapSize)
	for ; len(s) > 0; s = s[2:] {
		bitmap.add(binary.LittleEndian.Uint16(s))
	}
	return bitmap.add(offset)
}

// valid reports whether s has one of the forms of a set.
func (s offsets) valid() bool {
	if len(s) == bitmapSize {
		return true
	}
	if len(s) == 0 || len(s) > bitmapSize || len(s)%2 != 0 {
		return false
	}
	for i := 0; i < len(s); i += 2 {
		if binary.LittleEndian.Uint16(s[i:]) >= blockSize {
			return false
		}
	}
	return true
}

// members is a set of the numbers of a block.
type members [blockSize / 64]uint64

// allMembers is the whole block.
func allMembers() *members {
	m := &members{}
	for i := range m {
		m[i] = ^uint64(0)
	}
	return m
}

// meet leaves what is in s too, which is valid.
func (m *members) meet(s offsets) {
	if len(s) == bitmapSize {
		for i := range m {
			m[i] &= binary.LittleEndian.Uint64(s[8*i:])
		}
		return
	}
	var other members
	for ; len(s) > 0; s = s[2:] {
		offset := binary.LittleEndian.Uint16(s)
		other[offset>>6] |= 1 << (offset & 63)
	}
	for i := range m {
		m[i] &= other[i]
	}
}

// clip leaves what is from from on and below before.
func (m *members) clip(from, before int) {
	for i := range m {
		low, high := 64*i, 64*i+64
		if from > low {
			m[i] &= ^uint64(0) << min(from-low, 64)
		}
		if before < high {
			m[i] &= ^uint64(0) >> min(high-before, 64)
		}
	}
}

// each calls visit with every member, rising or falling, until it returns false.
func (m *members) each(rising bool, visit func(offset int) bool) bool {
	for n := range m {
		i := n
		if !rising {
			i = len(m) - 1 - n
		}
		for word := m[i]; word != 0; {
			bit := bits.TrailingZeros64(word)
			if !rising {
				bit = 63 - bits.LeadingZeros64(word)
			}
			word &^= 1 << bit
			if !visit(64*i + bit) {
				return false
			}
		}
	}
	return true
}
