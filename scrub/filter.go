package scrub

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// A match has at least MinLength bytes, so of any stride positions in a row that begin
// with its first one, each begins a block of four bytes within its first MinLength bytes.
// Hence only each stride-th position of a text has to be looked at: can the block there be
// one of those? A table of bits, by a hash of the block, says no for nearly all of
// ordinary text, at a cost that hardly depends on how many secrets there are.
const (
	blockBytes = 4
	stride     = MinLength - blockBytes + 1
)

// filter tells which blocks may be part of a match's beginning.
type filter struct {
	table []uint64
	shift uint8 // of a 32-bit hash
}

const (
	bitsPerBlock = 16      // one false alarm in as many looks
	maxTableBits = 1 << 22 // 512 KiB, which second-level caches hold
)

// newFilter finds all blocks within the first MinLength bytes of paths from roots.
func newFilter(m *matcher, roots []uint32) filter {
	var blocks []uint32
	nodes := slices.Clone(roots)
	for range stride {
		var next []uint32
		for _, n := range nodes {
			blocks = m.blocks(blocks, n, 0, 0)
			for _, e := range m.edgesOf(n) {
				next = append(next, e>>8)
			}
		}
		slices.Sort(next)
		nodes = slices.Compact(next)
	}
	width := bits.Len(uint(min(max(len(blocks)*bitsPerBlock, 1<<12), maxTableBits) - 1))
	f := filter{table: make([]uint64, 1<<width/64), shift: uint8(32 - width)}
	for _, block := range blocks {
		h := hash(block, f.shift)
		f.table[h>>6] |= 1 << (h & 63)
	}
	return f
}

// blocks adds each block that a path from n has, behind the size bytes in block.
func (m *matcher) blocks(to []uint32, n uint32, block uint32, size int) []uint32 {
	if size == blockBytes {
		return append(to, block)
	}
	for _, e := range m.edgesOf(n) {
		to = m.blocks(to, e>>8, block|e&0xff<<(8*size), size+1)
	}
	return to
}

// hash multiplies by 2^32 divided by the golden ratio (Knuth, volume 3, 6.4), and
// keeps the upper bits.
func hash(block uint32, shift uint8) uint32 { return block * 0x9e3779b1 >> (shift & 31) }

// has reports whether data, of four bytes at least, begins with such a block.
func (f *filter) has(data []byte) bool {
	h := hash(binary.LittleEndian.Uint32(data), f.shift)
	return f.table[h>>6]&(1<<(h&63)) != 0
}

// next looks at the positions at, at+stride and so on. It returns the first one with
// such a block, or one that has less than a block behind it.
func (f *filter) next(data []byte, at int) int {
	table, shift := f.table, f.shift
	for ; at+blockBytes <= len(data); at += stride {
		h := hash(binary.LittleEndian.Uint32(data[at:]), shift)
		if table[h>>6]&(1<<(h&63)) != 0 {
			break
		}
	}
	return at
}
