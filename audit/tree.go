package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// maxSeq bounds sequence numbers: tlog counts in int64.
const maxSeq = 1 << 62

// leafVersion is the first byte of every leaf.
const leafVersion = 1

// leafBytes is the size of a leaf's canonical encoding.
const leafBytes = 1 + 1 + 8 + 8 + sha256.Size

// leafHash returns the hash of the leaf that stands for a frame:
// tlog.RecordHash of the leaf's encoding, without that function's allocations.
func leafHash(typ frameType, seq, ref uint64, payload [sha256.Size]byte) tlog.Hash {
	var buf [1 + leafBytes]byte
	buf[0] = 0 // RFC 6962, section 2.1: a leaf and not a node
	buf[1] = leafVersion
	buf[2] = byte(typ)
	binary.BigEndian.PutUint64(buf[3:], seq)
	binary.BigEndian.PutUint64(buf[11:], ref)
	copy(buf[19:], payload[:])
	return sha256.Sum256(buf[:])
}

// hashFrame returns the hash of the leaf that f is.
func hashFrame(f frame) tlog.Hash {
	if f.typ == frameVoid {
		return leafHash(frameVoid, f.seq, 0, [sha256.Size]byte{})
	}
	return leafHash(f.typ, f.seq, f.ref(), sha256.Sum256(f.salted()))
}

// tree is the part of a Merkle tree that is needed to add leaves and to know
// the root: the roots of its complete subtrees. It is a value: a copy is a
// snapshot. The zero tree is empty.
type tree struct {
	size uint64
	// subtree[l] is the root of the complete subtree of 1<<l leaves; it is
	// meaningful where bit l of size is set.
	subtree [62]tlog.Hash
}

// add appends a leaf.
func (t *tree) add(leaf tlog.Hash) { t.addSeen(leaf, nil) }

// seer is shown the complete subtrees of a tree as they come to be: the n'th of
// those with 1<<level leaves. A leaf is one of level 0.
type seer func(level int, n uint64, root tlog.Hash)

// addSeen is add, and shows see the subtrees that the leaf completes.
func (t *tree) addSeen(leaf tlog.Hash, see seer) {
	level := bits.TrailingZeros64(^t.size)
	if see != nil {
		see(0, t.size, leaf)
	}
	for l := range level {
		leaf = tlog.NodeHash(t.subtree[l], leaf)
		if see != nil {
			see(l+1, t.size>>(l+1), leaf)
		}
	}
	t.subtree[level] = leaf
	t.size++
}

// addSubtree appends 1<<level leaves, of which only the root of their subtree is
// known. The size must be a multiple of their number.
func (t *tree) addSubtree(level int, root tlog.Hash) {
	size := t.size + 1<<level
	for ; t.size>>level&1 == 1; level++ {
		root = tlog.NodeHash(t.subtree[level], root)
	}
	t.subtree[level] = root
	t.size = size
}

// subtreesBetween returns the levels of the subtrees that addSubtree takes, in
// order, to grow a tree from one size to another.
func subtreesBetween(from, to uint64) (levels []int) {
	for from < to {
		level := bits.Len64(to-from) - 1
		if from > 0 {
			level = min(level, bits.TrailingZeros64(from))
		}
		levels = append(levels, level)
		from += 1 << level
	}
	return levels
}

// addVoid appends the leaf of a number that no record has.
func (t *tree) addVoid() {
	t.add(hashFrame(frame{typ: frameVoid, seq: t.size}))
}

// root returns the tree's root hash.
func (t *tree) root() tlog.Hash {
	peaks := t.peaks()
	if len(peaks) == 0 {
		return tlog.Hash(sha256.Sum256(nil)) // RFC 6962, section 2.1
	}
	hash := peaks[len(peaks)-1]
	for i := len(peaks) - 2; i >= 0; i-- {
		hash = tlog.NodeHash(peaks[i], hash)
	}
	return hash
}

// peaks returns the roots of the complete subtrees, the largest first.
func (t *tree) peaks() []tlog.Hash {
	var peaks []tlog.Hash
	for l := len(t.subtree) - 1; l >= 0; l-- {
		if t.size>>l&1 == 1 {
			peaks = append(peaks, t.subtree[l])
		}
	}
	return peaks
}

// showPeaks shows see what peaks returns.
func (t *tree) showPeaks(see seer) {
	for l := range t.subtree {
		if see != nil && t.size>>l&1 == 1 {
			see(l, t.size>>l-1, t.subtree[l])
		}
	}
}

// treeOf returns the tree of size leaves whose peaks are given.
func treeOf(size uint64, peaks []tlog.Hash) tree {
	t := tree{size: size}
	for l := len(t.subtree) - 1; l >= 0; l-- {
		if size>>l&1 == 1 {
			t.subtree[l], peaks = peaks[0], peaks[1:]
		}
	}
	return t
}

// equal reports whether t and o are the same tree.
func (t *tree) equal(o *tree) bool {
	return t.size == o.size && t.root() == o.root()
}
