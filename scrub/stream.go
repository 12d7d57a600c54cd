package scrub

import "slices"

// stream is the state of a search in a text that comes in pieces. Positions
// count from the beginning of the piece that is looked at; forget moves it.
type stream struct {
	m       *matcher
	live    []attempt
	spare   []attempt // the other array of live
	masks   []span    // what must go: sorted, apart from each other
	out     int       // what is before this has been rendered
	covered bool      // by a marker: the last of what has been rendered
	steps   int       // edges looked at, for tests of the worst case
}

// attempt is a match that began and may still come to its end.
type attempt struct {
	start int
	node  uint32
}

type span struct{ from, to int }

// scan looks at data from i on. What is before i has been looked at.
func (s *stream) scan(data []byte, i int) {
	if s.m == nil {
		return
	}
	for ; i < len(data); i++ {
		if len(s.live) == 1 {
			if i = s.follow(data, i); i == len(data) {
				return
			}
		} else if len(s.live) > 1 {
			s.step(data[i], i)
		}
		if len(s.live) == 0 {
			i = s.m.next(data, i)
		}
		s.begin(data, i)
	}
}

// follow carries the only live attempt on from position i. It returns the first
// position where nothing has begun yet: where the attempt ended, where another may
// begin, or at the end of data.
func (s *stream) follow(data []byte, i int) int {
	m, a := s.m, s.live[0]
	s.live = s.live[:0]
	for ; i < len(data); i++ {
		n := m.nodes[a.node]
		if n.forks {
			s.live = append(s.live, a)
			s.step(data[i], i)
			return i
		}
		to := m.to(n, data[i])
		s.steps += int(n.count)
		if to == 0 {
			return i
		}
		a.node = to
		if m.nodes[to].final {
			s.mask(span{a.start, i + 1})
		}
		if m.nodes[to].count == 0 {
			return i
		}
		if m.mayBegin(data, i) {
			break
		}
	}
	s.live = append(s.live, a)
	return i
}

// step carries each live attempt over the byte c at position i.
func (s *stream) step(c byte, i int) {
	next := s.spare[:0]
	for _, a := range s.live {
		edges := s.m.edgesOf(a.node)
		s.steps += len(edges)
		for _, e := range edges {
			if byte(e) == c {
				next = s.arrive(next, attempt{a.start, e >> 8}, i+1)
			}
		}
	}
	s.live, s.spare = next, s.live
}

// arrive notes a match where one ends, and keeps what may go on.
func (s *stream) arrive(live []attempt, a attempt, end int) []attempt {
	n := s.m.nodes[a.node]
	if n.final {
		s.mask(span{a.start, end})
	}
	if n.count > 0 {
		live = append(live, a)
	}
	return live
}

// begin starts the attempts at position i.
func (s *stream) begin(data []byte, i int) {
	if !s.m.mayBegin(data, i) {
		return
	}
	c := data[i]
	for _, n := range s.m.firsts[s.m.starts[c]:s.m.starts[int(c)+1]] {
		s.live = append(s.live, attempt{i, n})
	}
}

// mask adds a span that ends where the last one does or behind that.
func (s *stream) mask(m span) {
	n := len(s.masks)
	for n > 0 && s.masks[n-1].to >= m.from {
		n--
		m.from = min(m.from, s.masks[n].from)
	}
	s.masks = append(s.masks[:n], m)
}

// settled returns up to where data can be rendered for good: the beginning of
// the first live attempt.
func (s *stream) settled(data []byte) int {
	at := len(data)
	for _, a := range s.live {
		at = min(at, a.start)
	}
	return at
}

// plain reports whether there is nothing to mask up to a position.
func (s *stream) plain(upto int) bool { return len(s.masks) == 0 || s.masks[0].from >= upto }

// render appends what is to be seen of data up to a position. Matches that
// overlap or touch have one marker.
func (s *stream) render(dst, data []byte, upto int) []byte {
	done := 0
	for _, m := range s.masks {
		if m.from >= upto {
			break
		}
		dst = s.show(dst, data, m.from)
		if m.to > s.out {
			if !s.covered {
				dst = append(dst, Marker...)
			}
			s.out, s.covered = min(m.to, upto), true
		}
		if m.to > upto {
			break // the rest of it is to come
		}
		done++
	}
	s.masks = s.masks[:copy(s.masks, s.masks[done:])]
	return s.show(dst, data, upto)
}

// show appends what has not been rendered up to a position, as it is.
func (s *stream) show(dst, data []byte, upto int) []byte {
	if s.out < upto {
		dst = append(dst, data[s.out:upto]...)
		s.out, s.covered = upto, false
	}
	return dst
}

// forget moves the beginning of the text by n bytes, all of which are rendered.
func (s *stream) forget(n int) {
	s.out -= n
	for i := range s.live {
		s.live[i].start -= n
	}
	for i := range s.masks {
		s.masks[i].from -= n
		s.masks[i].to -= n
	}
}

// union returns the spans of both, sorted and apart from each other.
func union(a, b []span) []span {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y span) int { return x.from - y.from })
	var apart []span
	for _, m := range all {
		if n := len(apart); n > 0 && apart[n-1].to >= m.from {
			apart[n-1].to = max(apart[n-1].to, m.to)
		} else {
			apart = append(apart, m)
		}
	}
	return apart
}
