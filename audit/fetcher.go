package audit

import (
	"slices"
	"sort"
	"sync"
)

// Fetcher finds records of a log by their numbers. It keeps in memory where the segments
// begin and end, which takes some ten words for each, so that what is not in the newest
// one is found without looking at the folder. It is safe for concurrent use.
type Fetcher struct {
	dir string

	mu    sync.Mutex
	known *places // nil: nothing was looked for yet
}

// NewFetcher returns a fetcher of the log in dir. It reads nothing yet.
func NewFetcher(dir string) *Fetcher { return &Fetcher{dir: dir} }

// places is what the headers of a log's segments say. It is never changed.
type places struct {
	indexes []uint64 // of the segments that the folder had
	extents []extent // of those that can be read, in the order of the log
	// fault is the first segment, where its header cannot be read: the numbers before
	// those of extents are in it.
	fault  link
	faulty bool // some header cannot be read
}

// extent is where in the log's folder the numbers from first on are.
type extent struct {
	index, first uint64
	start, limit int64 // as of link
	prev         uint64
	prevEnd      int64
}

// of is the extent that has seq, or would; -1 where it lies before all of them.
func (p *places) of(seq uint64) int {
	return sort.Search(len(p.extents), func(i int) bool { return p.extents[i].first > seq }) - 1
}

// places returns the places of numbers up to seq. Segments change in nothing but their
// end, and only the last one in that, so that only what would be there, or in a later
// one, is looked for in the folder.
func (f *Fetcher) places(seq uint64) (*places, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known != nil && !f.known.faulty && f.known.of(seq) < len(f.known.extents)-1 {
		return f.known, nil
	}
	indexes, err := listSegments(osFileSystem{}, f.dir)
	if err != nil {
		return nil, err
	}
	if f.known != nil && !f.known.faulty && slices.Equal(indexes, f.known.indexes) {
		return f.known, nil
	}
	links, err := chainBy(osFileSystem{}, f.dir, f.header)
	if err != nil {
		return nil, err
	}
	now := &places{indexes: indexes}
	for i, l := range links {
		if l.fault != nil {
			now.faulty = true
			if i == 0 {
				now.fault = l
			}
			continue
		}
		h := l.header
		now.extents = append(now.extents, extent{index: l.index, first: h.tree.size, start: l.start, limit: l.limit, prev: h.prev, prevEnd: h.prevEnd})
	}
	f.known = now
	return now, nil
}

// header is what is known of the header of segment index, or else read.
func (f *Fetcher) header(index uint64) (segmentHeader, int64, error) {
	if f.known != nil {
		if i, ok := slices.BinarySearchFunc(f.known.extents, index, func(e extent, index uint64) int { return int(int64(e.index) - int64(index)) }); ok {
			e := f.known.extents[i]
			return segmentHeader{index: index, prev: e.prev, prevEnd: e.prevEnd, tree: tree{size: e.first}}, e.start, nil
		}
	}
	return readSegmentHeader(osFileSystem{}, f.dir, index)
}
