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

// fetchedAtOnce is how many records are looked for before it is asked how large they are.
const fetchedAtOnce = 32

// Fetch returns the records of the log that have the numbers seqs, in that order. A
// number that is void, or not there any more, or yet, has none. Where they take
// maxBytes of the log, which is positive, it ends soon: done is how many of seqs were
// looked for. It reads no more of the log than it needs, and checks each frame it reads,
// but not the proof. The log may be in use.
func (f *Fetcher) Fetch(ctx context.Context, seqs []uint64, maxBytes int) (records []execution.Record, done int, err error) {
	records = make([]execution.Record, 0, len(seqs))
	if len(seqs) == 0 {
		return records, 0, nil
	}
	places, err := f.places(slices.Max(seqs))
	if err != nil {
		return nil, 0, err
	}
	for bytes := 0; done < len(seqs) && bytes < maxBytes; {
		some := seqs[done:min(done+fetchedAtOnce, len(seqs))]
		done += len(some)
		found := fetched{}
		if err := found.read(ctx, f.dir, places, slices.Compact(slices.Sorted(slices.Values(some)))); err != nil {
			return nil, 0, err
		}
		for _, seq := range some {
			if one, ok := found[seq]; ok {
				records = append(records, one.record)
				bytes += one.bytes
			}
		}
	}
	return records, done, nil
}

// fetched are records by their numbers, with the bytes that each takes.
type fetched map[uint64]struct {
	record execution.Record
	bytes  int
}

// read adds the records that have the numbers rising, which rise.
func (found fetched) read(ctx context.Context, dir string, places *places, rising []uint64) error {
	for len(rising) > 0 {
		at := places.of(rising[0])
		end := len(rising)
		if at+1 < len(places.extents) {
			end, _ = slices.BinarySearch(rising, places.extents[at+1].first)
		}
		wanted := rising[:end]
		rising = rising[end:]
		if at < 0 {
			if bad := places.fault; bad.fault != nil {
				return fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, bad.name()), bad.fault)
			}
			continue // they are removed
		}
		e, after := places.extents[at], uint64(0)
		if at+1 < len(places.extents) {
			after = places.extents[at+1].first
		}
		err := e.fetch(ctx, dir, wanted, after, found)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, segmentName(e.index)), err)
		}
	}
	return nil
}

// fetch reads the records that have the numbers wanted, which rise, in one segment. after
// is the number that the next one begins with; zero: there is none.
func (e extent) fetch(ctx context.Context, dir string, wanted []uint64, after uint64, found fetched) error {
	path := filepath.Join(dir, segmentName(e.index))
	file, err := osFileSystem{}.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	from, to := spot{e.start, e.first}, spot{info.Size(), after}
	if e.limit >= 0 {
		to.off = min(to.off, e.limit)
	}
	s := &segmentReader{r: file, off: e.start, limit: e.limit, at: e.start, spare: make([]byte, nearby), ahead: nearby}
	for seeks, near := 0, int64(0); len(wanted) > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if s.off >= near {
			if near, err = s.seek(wanted[0], from, to, seeks < maxGuesses); err != nil {
				return err
			}
			seeks++
		}
		b, err := s.next()
		if bad := (*damage)(nil); err == io.EOF || e.limit < 0 && errors.As(err, &bad) {
			return nil // what is behind is not written yet, or being written
		}
		if err != nil {
			return err
		}
		from = spot{s.off, b.next()}
		if b.next() <= wanted[0] {
			continue
		}
		for _, f := range b.frames {
			for len(wanted) > 0 && wanted[0] < f.seq {
				wanted = wanted[1:]
			}
			if len(wanted) == 0 || wanted[0] != f.seq {
				continue
			}
			one := found[f.seq]
			if one.record, err = recordOf(f); err != nil {
				return &damage{b.offset, err}
			}
			one.bytes = len(f.payload())
			found[f.seq] = one
		}
		for len(wanted) > 0 && wanted[0] < b.next() {
			wanted = wanted[1:]
		}
		seeks, near = 0, 0 // what is next is elsewhere
	}
	return nil
}

// nearby is how far it is worth reading on rather than looking elsewhere, in bytes.
const nearby = 64 << 10

// maxGuesses is how often it is guessed where a record is, before that is searched for.
const maxGuesses = 3

// spot is where in a segment the batch begins, or would, that begins with the number seq;
// zero: it is not known with which.
type spot struct {
	off int64
	seq uint64
}

// seek goes on to a batch that is not behind the one that has seq, and returns the offset
// up to which that is worth being read for. The batch at from, where s is, is not behind
// it; nothing valid stands from to on. Where guess is set, it is told from the numbers
// where to look: records are much of a size.
func (s *segmentReader) seek(seq uint64, from, to spot, guess bool) (near int64, err error) {
	low, high, end := from, to, to.off // nothing that begins from end on is asked for
	if high.seq == 0 {                 // ever further steps first
		for step, off := int64(nearby), low.off+nearby; off < end; step *= 2 {
			at, err := s.batchAfter(off, end)
			if err != nil {
				return 0, err
			}
			if at.off < 0 || at.seq > seq {
				high, end = at, off
				break
			}
			low, off = at, at.off+step
		}
	}
	near = end
	for tries := 0; end-low.off > nearby; tries++ {
		middle := low.off + (end-low.off)/2
		if guess && high.seq > seq && tries%3 < 2 { // seldom so wrong that halving is better
			ahead := int64(float64(seq-low.seq) / float64(high.seq-low.seq) * float64(high.off-low.off))
			if ahead <= nearby {
				near = low.off + 2*nearby
				break
			}
			middle = min(low.off+ahead-nearby/2, end-1)
		}
		at, err := s.batchAfter(middle, end)
		switch {
		case err != nil:
			return 0, err
		case at.off < 0:
			end = middle
		case at.seq > seq:
			high, end = at, middle
		default:
			low = at
		}
		near = end
	}
	if low.off-s.off > nearby {
		s.off = low.off
		s.forget()
	}
	return near, nil
}

// batchAfter returns the place of the first intact batch header from off on and before
// end; its offset is -1 where there is none.
func (s *segmentReader) batchAfter(off, end int64) (spot, error) {
	none := spot{off: -1}
	// A batch header that begins before end reaches past it.
	end += int64(batchHeaderBytes)
	if s.probe == nil {
		s.probe = make([]byte, nearby)
	}
	for size := int64(nearby / 8); off < end; size = min(2*size, nearby) {
		n, err := s.r.ReadAt(s.probe[:min(size, end-off)], off)
		if err != nil && err != io.EOF {
			return none, fmt.Errorf("read at offset %d: %w", off, err)
		}
		data := s.probe[:n]
		if n < batchHeaderBytes || allZero(data) {
			return none, nil // no record has as many zeros: the log ends before
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
				return spot{off + int64(begin), h.first}, nil
			}
		}
		off += int64(n - (batchHeaderBytes - 1))
	}
	return none, nil
}
