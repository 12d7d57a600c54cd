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
		p := replay{unhashed: true}
		var current uint64
		err := readLinks(dir, 0, func(l link, b *batch) error {
			if l.index != current {
				p.begin(l.header)
				current = l.index
			}
			return yieldBatch(&p, l, b, yield)
		})
		if err != nil && err != errStop {
			yield(execution.Record{}, err)
		}
	}
}

// readLinks calls visit with every batch of the log in dir, from the segment on
// that has number from.
func readLinks(dir string, from uint64, visit func(link, *batch) error) error {
	visited := false
	for {
		links, err := chain(osFileSystem{}, dir)
		if err != nil {
			return err
		}
		first := linkOf(links, from)
		for i := first; i < len(links); i++ {
			l := links[i]
			switch {
			case l.fault != nil:
				err = l.fault
			case l.orphan && l.header.prev == 0:
				err = errors.New("it says that it is the first segment, but there are others before it")
			case l.orphan && i > 0:
				err = fmt.Errorf("the segment before it, %s, is missing", segmentName(l.header.prev))
			default:
				err = readLink(dir, l, i == len(links)-1, func(b *batch) error {
					visited = true
					return visit(l, b)
				})
			}
			if err == errStop {
				return err
			}
			if errors.Is(err, fs.ErrNotExist) && !visited {
				break // retention removed the oldest since the folder was listed
			}
			if err != nil {
				return fmt.Errorf("read the audit log: %s: %w", filepath.Join(dir, l.name()), err)
			}
		}
		if err == nil {
			return nil
		}
	}
}

// errStop says that the consumer of an iterator wants no more.
var errStop = errors.New("stop")

func yieldBatch(p *replay, l link, b *batch, yield func(execution.Record, error) bool) error {
	if err := p.add(l.index, b); err != nil {
		return err
	}
	for _, f := range b.frames {
		rec, err := recordOf(f)
		if err != nil {
			return &damage{b.offset, err}
		}
		if !yield(rec, nil) {
			return errStop
		}
	}
	return nil
}

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
