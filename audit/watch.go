package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
)

// watch notices that the log's files were removed, moved or replaced while they
// are in use: what is written to such a file is lost to every reader.
type watch struct {
	fsys FileSystem
	dir  string

	mu     sync.Mutex
	sealed map[string]Identity
}

// named compares what a name leads to with the file that is open, or was
// closed, under it. An open file's inode is not given to another file, so that
// one look at the name also tells that the file was removed.
func (w *watch) named(name string, want Identity) error {
	path := filepath.Join(w.dir, name)
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
	return nil
}

// seal adds a segment that is no longer written.
func (w *watch) seal(name string, id Identity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed[name] = id
}

// all looks at every sealed segment.
func (w *watch) all() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, want := range w.sealed {
		if err := w.named(name, want); err != nil {
			return err
		}
	}
	return nil
}
