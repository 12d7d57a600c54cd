package scrub

// builder makes the graph of a matcher. Values that begin alike share what they have
// in common, in each kind of encoding. Nodes are either between two
// units of an encoding (a byte, a digit, a base64 character), or amid one.
type builder struct {
	nodes    []building
	edges    []buildingEdge
	children map[uint64]uint32 // by node and unit

	text        map[escaping]uint32 // the nodes where matches begin
	hex, base64 uint32
}

type building struct {
	first, last int32 // edges, -1 if there are none
	depth       int   // in bytes, at most
	amid, final bool
}

type buildingEdge struct {
	b    byte
	to   uint32
	next int32
}

func newBuilder() *builder {
	b := &builder{children: map[uint64]uint32{}, text: map[escaping]uint32{}}
	for _, way := range escapings(`%\`) {
		b.text[way] = b.add(building{})
	}
	b.hex = b.add(building{})
	b.base64 = b.add(building{})
	return b
}

func (b *builder) add(n building) uint32 {
	n.first, n.last = -1, -1
	b.nodes = append(b.nodes, n)
	return uint32(len(b.nodes) - 1)
}

// path returns the nodes between the units, with the one at the beginning.
func (b *builder) path(root uint32, units string) []uint32 {
	path := make([]uint32, 1, len(units)+1)
	path[0] = root
	for i := range len(units) {
		path = append(path, b.child(path[i], uint16(units[i])))
	}
	return path
}

// child returns the node that a unit leads to.
func (b *builder) child(from uint32, unit uint16) uint32 {
	step := uint64(from)<<16 | uint64(unit)
	to, ok := b.children[step]
	if !ok {
		to = b.add(building{})
		b.children[step] = to
	}
	return to
}

func (b *builder) finish(n uint32) { b.nodes[n].final = true }

// literal lets text lead from one node to another, in addition to what does.
func (b *builder) literal(from uint32, text string, to uint32) { b.lead(from, text, to, false) }

// alternative is literal with hex digits of either case.
func (b *builder) alternative(from uint32, text string, to uint32) { b.lead(from, text, to, true) }

func (b *builder) lead(from uint32, text string, to uint32, fold bool) {
	b.nodes[to].depth = max(b.nodes[to].depth, b.nodes[from].depth+len(text))
	for i := range len(text) {
		target, exists := to, false
		if i < len(text)-1 {
			if target, exists = b.amid(from, text[i]); !exists {
				target = b.add(building{amid: true})
			}
		}
		if !exists {
			b.edge(from, text[i], target)
			if fold && 'a' <= text[i] && text[i] <= 'f' {
				b.edge(from, text[i]-'a'+'A', target)
			}
		}
		from = target
	}
}

// amid returns the node amid a unit that c leads to.
func (b *builder) amid(from uint32, c byte) (uint32, bool) {
	for i := b.nodes[from].first; i >= 0; i = b.edges[i].next {
		if e := b.edges[i]; e.b == c && b.nodes[e.to].amid {
			return e.to, true
		}
	}
	return 0, false
}

func (b *builder) edge(from uint32, c byte, to uint32) {
	n := &b.nodes[from]
	for i := n.first; i >= 0; i = b.edges[i].next {
		if b.edges[i].b == c && b.edges[i].to == to {
			return
		}
	}
	b.edges = append(b.edges, buildingEdge{c, to, -1})
	last := int32(len(b.edges) - 1)
	if n.first < 0 {
		n.first = last
	} else {
		b.edges[n.last].next = last
	}
	n.last = last
}

// matcher lays the graph out.
func (b *builder) matcher() *matcher {
	m := &matcher{nodes: make([]node, len(b.nodes)), edges: make([]uint32, 0, len(b.edges))}
	for i, n := range b.nodes {
		begin := len(m.edges)
		for e := n.first; e >= 0; e = b.edges[e].next {
			m.edges = append(m.edges, b.edges[e].to<<8|uint32(b.edges[e].b))
		}
		m.nodes[i] = node{uint32(begin), uint16(len(m.edges) - begin), n.final, forks(m.edges[begin:])}
		m.longest = max(m.longest, n.depth)
	}
	roots := []uint32{b.hex, b.base64}
	for _, way := range escapings(`%\`) {
		roots = append(roots, b.text[way])
	}
	m.begin(roots)
	m.filter = newFilter(m, roots)
	return m
}

// forks reports whether two edges have the same byte.
func forks(edges []uint32) bool {
	var seen [4]uint64
	for _, e := range edges {
		c := byte(e)
		if seen[c>>6]&(1<<(c&63)) != 0 {
			return true
		}
		seen[c>>6] |= 1 << (c & 63)
	}
	return false
}
