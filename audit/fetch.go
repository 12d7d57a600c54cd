package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/execgate/execgate/execution"
)

// ID names the log: it is the first line of its checkpoints.
func (l *Log) ID() string { return l.id.origin() }

// IDOf returns the ID of the log in dir, as its segments name it.
func IDOf(dir string) (string, error) {
	links, err := chain(osFileSystem{}, dir)
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.fault == nil {
			return logIdentity{id: l.header.logID}.origin(), nil
		}
	}
	return "", fmt.Errorf("%s is not the folder of an audit log: it has no segment that can be read", dir)
}

// Oldest returns the first number that the log in dir has not given up.
func Oldest(dir string) (uint64, error) {
	links, err := chain(osFileSystem{}, dir)
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.fault == nil {
			return l.header.tree.size, nil
		}
	}
	return 0, nil
}

// Fetch returns the records of the log in dir that have the numbers seqs, in that
// order. A number that is void, or not there any more, or yet, has none. It reads no
// more of the log than it needs, and checks each frame it reads, but not the proof.
// The log may be in use.
func Fetch(ctx context.Context, dir string, seqs []uint64) ([]execution.Record, error) {
	links, err := chain(osFileSystem{}, dir)
	if err != nil {
		return nil, err
	}
	found := map[uint64]execution.Record{}
	rising := slices.Compact(slices.Sorted(slices.Values(seqs)))
	for i, l := range links {
		end := len(rising)
		if later := slices.IndexFunc(links[i+1:], func(l link) bool { return l.fault == nil }); later >= 0 {
			end, _ = slices.BinarySearch(rising, links[i+1+later].header.tree.size)
		}
		wanted := rising[:end]
		rising = rising[end:]
		if len(wanted) == 0 {
			continue
		}
		if l.fault == nil {
			err = l.fetch(ctx, dir, wanted, found)
		} else {
			err = l.fault
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, l.name()), err)
		}
	}
	records := make([]execution.Record, 0, len(seqs))
	for _, seq := range seqs {
		if r, ok := found[seq]; ok {
			records = append(records, r)
		}
	}
	return records, nil
}

// fetch reads the records that have the numbers wanted, which rise, in one segment.
func (l link) fetch(ctx context.Context, dir string, wanted []uint64, found map[uint64]execution.Record) error {
	file, err := osFileSystem{}.OpenFile(filepath.Join(dir, l.name()), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := os.Stat(filepath.Join(dir, l.name()))
	if err != nil {
		return err
	}
	end := info.Size()
	if l.limit >= 0 {
		end = min(end, l.limit)
	}
	s := &segmentReader{r: file, off: l.start, limit: l.limit, at: l.start, spare: make([]byte, nearby)}
	for len(wanted) > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.seek(wanted[0], end); err != nil {
			return err
		}
		b, err := s.next()
		for err == nil && b.next() <= wanted[0] {
			b, err = s.next()
		}
		if bad := (*damage)(nil); err == io.EOF || l.limit < 0 && errors.As(err, &bad) {
			return nil // what is behind is not written yet, or being written
		}
		if err != nil {
			return err
		}
		for _, f := range b.frames {
			for len(wanted) > 0 && wanted[0] < f.seq {
				wanted = wanted[1:]
			}
			if len(wanted) == 0 || wanted[0] != f.seq {
				continue
			}
			if found[f.seq], err = recordOf(f); err != nil {
				return &damage{b.offset, err}
			}
		}
		for len(wanted) > 0 && wanted[0] < b.next() {
			wanted = wanted[1:]
		}
	}
	return nil
}

// nearby is how far it is worth reading on rather than looking elsewhere, in bytes.
const nearby = 64 << 10

// seek goes on to a batch that is not behind the one that has seq, and near it. The
// batch at s.off is not behind it. Nothing valid stands from end on.
func (s *segmentReader) seek(seq uint64, end int64) error {
	// Ever further steps first: what is asked for next is often near.
	low, high := s.off, min(s.off+nearby, end)
	for step := int64(nearby); high < end; step *= 2 {
		at, first, err := s.batchAfter(high, end)
		if err != nil {
			return err
		}
		if at < 0 || first > seq {
			break
		}
		low, high = at, min(at+step, end)
	}
	for high-low > nearby {
		middle := low + (high-low)/2
		at, first, err := s.batchAfter(middle, high)
		switch {
		case err != nil:
			return err
		case at < 0 || first > seq:
			high = middle
		default:
			low = at
		}
	}
	if low-s.off > nearby {
		s.off = low
		s.forget()
	}
	return nil
}

// batchAfter returns the offset of the first intact batch header from off on and
// before end, and the number it begins with; -1 where there is none.
func (s *segmentReader) batchAfter(off, end int64) (at int64, first uint64, err error) {
	// A batch header that begins before end reaches past it.
	end += int64(batchHeaderBytes)
	buf := make([]byte, nearby)
	for off < end {
		n, err := s.r.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil && err != io.EOF {
			return 0, 0, fmt.Errorf("read at offset %d: %w", off, err)
		}
		data := buf[:n]
		if n < batchHeaderBytes || allZero(data) {
			return -1, 0, nil // no record has as many zeros: the log ends before
		}
		for from := 0; ; {
			i := bytes.Index(data[from:], []byte(batchMagic))
			if i < 0 {
				break
			}
			begin := from + i - frameHeaderBytes
			from += i + 1
			if begin < 0 {
				continue
			}
			f, _, err := decodeFrame(data[begin:])
			if err != nil {
				continue
			}
			if h, err := parseBatchHeader(f); err == nil {
				return off + int64(begin), h.first, nil
			}
		}
		off += int64(n - (batchHeaderBytes - 1))
	}
	return -1, 0, nil
}
