package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// watch knows which segments the log has. It notices that they were removed,
// moved, replaced or cut while they are in use: what is written to such a file is
// lost to every reader.
type watch struct {
	fsys FileSystem
	dir  string

	mu      sync.Mutex
	sealed  []sealedSegment // in their order
	current sealedSegment   // the one that is written; index 0 before there is one
	removed uint64          // segments that retention removed since the log was opened
}

// sealedSegment is a segment that is no longer written.
type sealedSegment struct {
	index       uint64
	identity    Identity
	first, next uint64    // its numbers are those from first to before next
	root        tlog.Hash // of the tree of next numbers
	sealed      time.Time // not before its last record was made
}

// named compares what a path leads to with the file that is open, or was
// closed, under it. An open file's inode is not given to another file, so that
// one look at the name also tells that the file was removed.
func (w *watch) named(path string, want Identity) error {
	found, err := w.fsys.Identify(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s was moved or removed while in use", errFileGone, path)
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if !found.same(want) {
		return fmt.Errorf("%w: %s was replaced while in use", errFileGone, path)
	}
	if found.Size != want.Size {
		return fmt.Errorf("%w: %s was cut or grew from %d bytes to %d while in use", errFileGone, path, want.Size, found.Size)
	}
	return nil
}

// use names the segment that is written from now on.
func (w *watch) use(index uint64, id Identity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = sealedSegment{index: index, identity: id}
}

// seal adds a segment that is no longer written, the latest.
func (w *watch) seal(s sealedSegment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed = append(w.sealed, s)
}

// oldest returns up to n sealed segments, the oldest first.
func (w *watch) oldest(n int) []sealedSegment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sealed[:min(n, len(w.sealed))])
}

// drop has the segment removed by remove, and then no longer looks at it.
func (w *watch) drop(index uint64, remove func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := remove(); err != nil {
		return err
	}
	if i := slices.IndexFunc(w.sealed, func(s sealedSegment) bool { return s.index == index }); i >= 0 {
		w.sealed = slices.Delete(w.sealed, i, i+1)
		w.removed++
	}
	return nil
}

// held adds up the segments.
func (w *watch) held() Held {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := Held{Removed: w.removed}
	for _, s := range w.sealed {
		h.Segments++
		h.Bytes += s.identity.Size
	}
	if w.current.index > 0 {
		h.Segments++
		h.Bytes += w.current.identity.Size
	}
	if len(w.sealed) > 0 {
		h.Oldest = w.sealed[0].first
	}
	return h
}

// all looks at every segment. It holds up who seals one no longer than one look
// takes.
func (w *watch) all() error {
	for i := -1; ; i++ {
		if more, err := w.look(i); !more || err != nil {
			return err
		}
	}
}

// look looks at sealed segment i, or at the one that is written where i is -1, and
// reports whether there is such a one.
func (w *watch) look(i int) (more bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.current
	if i >= len(w.sealed) {
		return false, nil
	}
	if i >= 0 {
		s = w.sealed[i]
	}
	if s.index == 0 {
		return true, nil
	}
	return true, w.named(filepath.Join(w.dir, segmentName(s.index)), s.identity)
}
