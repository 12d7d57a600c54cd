package scrub

// matcher is a graph of all that may stand for a secret: from the beginning of a
// match each byte leads along one edge (seldom along two, see escaping), and a
// match ends at each final node.
type matcher struct {
	values  []string
	nodes   []node
	edges   []uint32             // the byte in the lowest 8 bits, the node above
	starts  [257]uint32          // where in firsts the nodes after each first byte begin
	firsts  []uint32             // nodes after a first byte
	pairs   [1 << 16 / 64]uint64 // which two bytes may begin a match
	filter  filter
	longest int // of all matches, in bytes
}

type node struct {
	edges uint32 // the first of them
	count uint16
	final bool
	forks bool // two of them have the same byte
}

// compile makes the matcher of values.
func compile(values []string) *matcher {
	b := newBuilder()
	for _, value := range values {
		for _, form := range forms(value) {
			for _, way := range escapings(form) {
				b.addText(form, way)
			}
			b.addHex(form)
			for skip := range 3 {
				b.addBase64(form, skip)
			}
		}
	}
	m := b.matcher()
	m.values = values
	return m
}

// edgesOf returns the edges that leave n.
func (m *matcher) edgesOf(n uint32) []uint32 {
	from := m.nodes[n]
	return m.edges[from.edges : from.edges+uint32(from.count)]
}

// to returns where a byte leads from a node that does not fork, and 0, a node
// where matches begin and none goes on, if it leads nowhere.
func (m *matcher) to(n node, c byte) uint32 {
	for _, e := range m.edges[n.edges : n.edges+uint32(n.count)] {
		if byte(e) == c {
			return e >> 8
		}
	}
	return 0
}

// mayBegin reports whether a match may begin at position i. It says yes if too
// little of data is left to tell.
func (m *matcher) mayBegin(data []byte, i int) bool {
	if i+blockBytes <= len(data) {
		pair := uint(data[i]) | uint(data[i+1])<<8
		return m.pairs[pair>>6]&(1<<(pair&63)) != 0 && m.filter.has(data[i:])
	}
	return m.starts[data[i]] < m.starts[int(data[i])+1]
}

// next returns the first position from i on, which is one of data, where a match may
// begin. It tells less of the last positions, where little of data is left.
func (m *matcher) next(data []byte, i int) int {
	for at := i + stride - 1; ; at += stride {
		at = m.filter.next(data, at)
		first := at - (stride - 1)
		if at+blockBytes > len(data) {
			return first
		}
		for ; first <= at; first++ {
			if m.mayBegin(data, first) {
				return first
			}
		}
	}
}

// begin fills what finds the beginning of a match.
func (m *matcher) begin(roots []uint32) {
	for c := range 256 {
		m.starts[c] = uint32(len(m.firsts))
		for _, root := range roots {
			for _, e := range m.edgesOf(root) {
				if byte(e) != byte(c) {
					continue
				}
				m.firsts = append(m.firsts, e>>8)
				for _, second := range m.edgesOf(e >> 8) {
					pair := c | int(second&0xff)<<8
					m.pairs[pair>>6] |= 1 << (pair & 63)
				}
			}
		}
	}
	m.starts[256] = uint32(len(m.firsts))
}
