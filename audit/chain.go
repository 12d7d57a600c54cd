package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// link is one segment in the order of the log.
type link struct {
	index  uint64
	header segmentHeader
	start  int64 // offset of the first batch
	// limit is where the valid bytes end, as the next segment's header says;
	// -1 of the last segment, and where the next one cannot say.
	limit int64
	// fault says what is wrong with the header; the rest is then meaningless.
	fault error
	// orphan is set where the segment that the header calls the one before is
	// not there; of the first one, because it was removed.
	orphan bool
}

// name returns the name of the link's file.
func (l link) name() string { return segmentName(l.index) }

// chain returns the segments in dir in the order of the log. A segment that a
// later header passes over is left out: it was given up before anything in it
// was acknowledged. An error means that the folder could not be read.
func chain(fsys FileSystem, dir string) ([]link, error) {
	return chainBy(fsys, dir, func(index uint64) (segmentHeader, int64, error) { return readSegmentHeader(fsys, dir, index) })
}

// chainBy is chain where read reads the header of a segment.
func chainBy(fsys FileSystem, dir string, read func(index uint64) (segmentHeader, int64, error)) ([]link, error) {
	indexes, err := listSegments(fsys, dir)
	if err != nil {
		return nil, err
	}
	var links []link
	before := uint64(1<<64 - 1) // the index that the later segment says comes before it
	for i := len(indexes) - 1; i >= 0; i-- {
		index := indexes[i]
		if len(links) > 0 && index > before {
			continue
		}
		l := link{index: index, limit: -1}
		l.header, l.start, err = read(index)
		if errors.Is(err, fs.ErrNotExist) {
			// Retention removed it since the folder was listed, and what came before it.
			if len(links) == 0 {
				return chainBy(fsys, dir, read)
			}
			break
		}
		if bad := (*damage)(nil); errors.As(err, &bad) {
			l.fault = bad
		} else if err != nil {
			return nil, fmt.Errorf("read the header of %s: %w", l.name(), err)
		}
		if len(links) > 0 {
			if later := &links[len(links)-1]; later.fault == nil {
				if later.header.prev == index {
					l.limit = later.header.prevEnd
				} else {
					later.orphan = true
				}
			}
		}
		links = append(links, l)
		before = index
		if l.fault == nil {
			before = l.header.prev
		}
	}
	if n := len(links); n > 0 && links[n-1].fault == nil && links[n-1].header.prev != 0 {
		links[n-1].orphan = true
	}
	for i, j := 0, len(links)-1; i < j; i, j = i+1, j-1 {
		links[i], links[j] = links[j], links[i]
	}
	return links, nil
}

// after returns the segment that follows segment index, with no more read than that
// takes; false where there is none yet, or where more is needed to tell.
func after(fsys FileSystem, dir string, index uint64) (link, bool, error) {
	indexes, err := listSegments(fsys, dir)
	if err != nil {
		return link{}, false, err
	}
	at, _ := slices.BinarySearch(indexes, index+1)
	var found link
	for _, i := range indexes[at:] {
		h, start, err := readSegmentHeader(fsys, dir, i)
		if errors.Is(err, fs.ErrNotExist) || errors.As(err, new(*damage)) {
			return link{}, false, nil
		}
		if err != nil {
			return link{}, false, fmt.Errorf("read the header of %s: %w", segmentName(i), err)
		}
		if h.prev > index {
			// What was passed over before it has the same segment before it.
			if h.prev == found.index {
				found.limit = h.prevEnd
			}
			break
		}
		found = link{index: i, header: h, start: start, limit: -1}
	}
	return found, found.index > 0 && found.header.prev == index, nil
}
