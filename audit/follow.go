package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/execution"
)

// Follow yields the durable records of the log from number from on, in order and a
// batch at a time, and then waits for further ones until ctx ends. Where from is of a
// segment that is gone it begins with the oldest that is there. A batch is the
// consumer's to keep. Whoever follows does not hold up who appends, however slow it
// is: it reads from the disk. It yields one error at most, as the last: of reading,
// or of damage, with file and offset; the end of ctx is none.
func (l *Log) Follow(ctx context.Context, from uint64) iter.Seq2[[]execution.Record, error] {
	return func(yield func([]execution.Record, error) bool) {
		f := &follower{fsys: l.cfg.FileSystem, dir: l.cfg.Dir, next: from}
		defer f.leave()
		for ctx.Err() == nil {
			size, sealed, changed := l.writer.tip.follow()
			if f.next >= size {
				select {
				case <-changed:
				case <-ctx.Done():
				}
				continue
			}
			batch, err := f.read(size, sealed)
			if err != nil {
				yield(nil, fmt.Errorf("follow the audit log: %w", err))
				return
			}
			if len(batch) > 0 && !yield(batch, nil) {
				return
			}
		}
	}
}

// linkOf is the index of the segment that has number seq, or would: the last that
// begins at or before it, else the first. A segment that cannot be read begins nowhere.
func linkOf(links []link, seq uint64) int {
	at := 0
	for i, l := range links {
		if l.fault == nil && l.header.tree.size <= seq {
			at = i
		}
	}
	return at
}

// recordsOf decodes the records of a batch from number from on.
func recordsOf(b *batch, from uint64) ([]execution.Record, error) {
	if b.next() <= from {
		return nil, nil
	}
	records := make([]execution.Record, 0, len(b.frames))
	for _, f := range b.frames {
		if f.seq < from {
			continue
		}
		r, err := recordOf(f)
		if err != nil {
			return nil, &damage{b.offset, err}
		}
		records = append(records, r)
	}
	return records, nil
}

// follower reads a log that grows.
type follower struct {
	fsys   FileSystem
	dir    string
	next   uint64 // number of the next record that is wanted
	at     uint64 // the numbers before it were read, or passed over where it began
	index  uint64 // of the segment that is read; 0: none
	file   File
	reader *segmentReader
	// whole is a number before which everything is whole in what reader has read
	// ahead: what follows may have been read before it was written.
	whole uint64
}

// read returns what the next batch has from next on, of a log that is durable up to
// size and whose last sealed segment has the index sealed. It may be nothing.
func (f *follower) read(size, sealed uint64) ([]execution.Record, error) {
	if f.index == 0 || f.index <= sealed && f.reader.limit < 0 {
		// A sealed segment may have something behind its end that was given up; the
		// header of the one after it says where that is.
		if err := f.open(); err != nil {
			return nil, err
		}
	}
	if f.next >= f.whole {
		f.reader.forget()
		f.whole = size
	}
	b, err := f.reader.next()
	if err == io.EOF && f.reader.limit >= 0 {
		return nil, f.open()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, segmentName(f.index)), err)
	}
	if b.durable != f.at {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, segmentName(f.index)), &damage{b.offset, fmt.Errorf("the batch says %d numbers came before it, but %d did", b.durable, f.at)})
	}
	f.at = b.next()
	records, err := recordsOf(b, f.next)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, segmentName(f.index)), err)
	}
	f.next = max(f.next, b.next())
	return records, nil
}

// open opens the segment that has the next record. A segment that is read already is
// read on, up to where it ends by now.
func (f *follower) open() error {
	for {
		l, err := f.find()
		if err != nil {
			return err
		}
		if l.fault != nil {
			return fmt.Errorf("%s: %w", filepath.Join(f.dir, l.name()), l.fault)
		}
		if l.index == f.index {
			f.reader.limit = l.limit
			return nil
		}
		file, err := f.fsys.OpenFile(filepath.Join(f.dir, l.name()), os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was the oldest, and was removed meanwhile
		}
		if err != nil {
			return err
		}
		if f.index == 0 || l.header.prev != f.index {
			f.at = l.header.tree.size // what came before is not read, or was removed
		}
		f.leave()
		f.index, f.file, f.reader = l.index, file, newSegmentReader(file, l.start, l.limit)
		return nil
	}
}

// find is the segment to read: the one that is read, while it has more; the one
// after it; or the one that has the next record.
func (f *follower) find() (link, error) {
	if f.index > 0 {
		next, ok, err := after(f.fsys, f.dir, f.index)
		if err != nil {
			return link{}, err
		}
		if ok && f.reader.off < next.header.prevEnd {
			return link{index: f.index, limit: next.header.prevEnd}, nil
		}
		if ok {
			return next, nil
		}
	}
	links, err := chain(f.fsys, f.dir)
	if err != nil {
		return link{}, err
	}
	if len(links) == 0 {
		return link{}, fmt.Errorf("%s has no segment", f.dir)
	}
	for i, l := range links {
		if l.index == f.index {
			if i+1 < len(links) && l.limit >= 0 && f.reader.off >= l.limit {
				return links[i+1], nil
			}
			return l, nil
		}
	}
	return links[linkOf(links, f.next)], nil
}

// leave closes the segment that is read.
func (f *follower) leave() {
	if f.file != nil {
		_ = f.file.Close() // it was only read
		f.file = nil
	}
}
