package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/execution"
)

// recordOf decodes the record that f is.
func recordOf(f frame) (execution.Record, error) {
	var rec execution.Record
	if err := json.Unmarshal(f.payload(), &rec); err != nil {
		return execution.Record{}, fmt.Errorf("decode record %d: %w", f.seq, err)
	}
	if rec.Seq != f.seq {
		return execution.Record{}, fmt.Errorf("decode record %d: it says it is record %d", f.seq, rec.Seq)
	}
	return rec, nil
}

// Read yields the records of the log in dir, in order, with memory for one
// batch. It checks frames and numbers, but not the proof: that is Verify's. The
// log may be in use; the last records may then be on their way to the disk
// still. Read yields one error at most, as the last: of reading, or of damage,
// with file and offset. A last batch that is torn ends it without an error.
func Read(dir string) iter.Seq2[execution.Record, error] {
	return func(yield func(execution.Record, error) bool) {
		for batch, err := range ReadFrom(dir, 0) {
			if err != nil {
				yield(execution.Record{}, err)
				return
			}
			for _, rec := range batch {
				if !yield(rec, nil) {
					return
				}
			}
		}
	}
}

// ReadFrom yields the records of the log in dir from number from on, in order and a
// batch at a time, as Read does otherwise. It reads no segment that ends before.
func ReadFrom(dir string, from uint64) iter.Seq2[[]execution.Record, error] {
	return func(yield func([]execution.Record, error) bool) {
		visited := false
		visit := func(b *batch) error {
			visited = true
			records, err := recordsOf(b, from)
			if err == nil && len(records) > 0 && !yield(records, nil) {
				return errStop
			}
			return err
		}
		for {
			links, err := chain(osFileSystem{}, dir)
			if err == nil {
				err = readLinks(dir, links[linkOf(links, from):], visit)
				if errors.Is(err, fs.ErrNotExist) && !visited {
					continue // retention removed the oldest since the folder was listed
				}
			}
			if err != nil && err != errStop {
				yield(nil, err)
			}
			return
		}
	}
}

// readLinks calls visit with every batch of segments that follow on one another.
func readLinks(dir string, links []link, visit func(*batch) error) error {
	p := replay{unhashed: true}
	for i, l := range links {
		err := l.fault
		switch {
		case err != nil:
		case l.orphan && l.header.prev == 0:
			err = errors.New("it says that it is the first segment, but there are others before it")
		case l.orphan && i > 0:
			err = fmt.Errorf("the segment before it, %s, is missing", segmentName(l.header.prev))
		case i > 0 && l.header.tree.size != p.tree.size:
			err = fmt.Errorf("it continues a log of %d records, and there are %d before it", l.header.tree.size, p.tree.size)
		default:
			p.begin(l.header)
			err = readLink(dir, l, i == len(links)-1, func(b *batch) error {
				if err := p.add(l.index, b); err != nil {
					return err
				}
				return visit(b)
			})
		}
		if err == errStop {
			return err
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, l.name()), err)
		}
	}
	return nil
}

// errStop says that the consumer of an iterator wants no more.
var errStop = errors.New("stop")

// readLink calls visit with every batch of a segment.
func readLink(dir string, l link, last bool, visit func(*batch) error) error {
	f, err := osFileSystem{}.OpenFile(filepath.Join(dir, l.name()), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := newSegmentReader(f, l.start, l.limit)
	for {
		b, err := reader.next()
		if bad := (*damage)(nil); errors.As(err, &bad) && last {
			b, err = reader.retry(bad)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(b); err != nil {
			return err
		}
	}
}

// retry reads again where damage was found in a segment that may be in use.
// The last batch may be torn, or on its way to the disk, which ends the log;
// but where a later batch stands, this one was complete before that was
// written, so that it is whole now or damaged.
func (s *segmentReader) retry(bad *damage) (*batch, error) {
	later, err := s.laterBatch()
	if err != nil {
		return nil, err
	}
	if later < 0 {
		return nil, io.EOF
	}
	s.forget()
	b, err := s.next()
	if err == io.EOF {
		return nil, bad
	}
	return b, err
}
