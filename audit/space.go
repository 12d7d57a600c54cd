package audit

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// retryAllocation is how long after a refused allocation the next is tried.
const retryAllocation = 250 * time.Millisecond

// space keeps one segment's worth of disk allocated ahead, so that rotation
// does not wait for it, a failed segment can be replaced on a full disk, and
// running work can be ended there.
type space struct {
	fsys FileSystem
	dir  string
	size int64
	// max bounds what used returns together with the spare; zero does not.
	max  int64
	used func() int64

	ready atomic.Bool // a spare is there

	mu     sync.Mutex
	made   int // spares so far: each has a name of its own, because the one before may not have been renamed yet
	spare  File
	path   string // of spare
	err    error  // of the last attempt
	failed time.Time
	capped error // why the last attempt was not made
	taken  int64 // bytes of the spare that is about to become a segment
}

// placed tells that what was taken is a segment, or is gone.
func (s *space) placed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = 0
}

// refused is why there is no spare, if an attempt to make one was refused.
func (s *space) refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		return nil
	}
	return cmp.Or(s.capped, s.err)
}

// ensure makes the spare if there is none.
func (s *space) ensure() error { return s.ensurePast(false) }

// ensurePast makes the spare if there is none, also past max where past is set.
func (s *space) ensurePast(past bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		return nil
	}
	if s.err != nil && time.Since(s.failed) < retryAllocation {
		return s.err
	}
	if used := s.used() + s.taken; !past && s.max > 0 && used+s.size > s.max {
		// Retention makes room at any time, so this is asked anew each time.
		s.capped = fmt.Errorf("%w: it takes %d bytes of %d", errCap, used, s.max)
		return s.capped
	}
	s.capped = nil
	return s.make()
}

// make makes the spare; mu is held.
func (s *space) make() error {
	s.spare, s.err = s.allocate()
	if s.err != nil {
		s.failed = time.Now()
		return s.err
	}
	s.ready.Store(true)
	return nil
}

func (s *space) allocate() (File, error) {
	s.made++
	s.path = filepath.Join(s.dir, strconv.Itoa(s.made)+spareSuffix)
	f, err := s.fsys.OpenFile(s.path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make space for a segment: %w", err)
	}
	if err := f.Allocate(s.size); err != nil {
		f.Close()
		_ = s.fsys.Remove(s.path) // else the next New does
		return nil, fmt.Errorf("make space for a segment: %w", err)
	}
	return f, nil
}

// take hands over the spare and its path, making it first if need be, also past
// max: what is taken without a spare there is for an end, or after a fault.
func (s *space) take() (File, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		if s.err != nil && time.Since(s.failed) < retryAllocation {
			return nil, "", s.err
		}
		if err := s.make(); err != nil {
			return nil, "", err
		}
	}
	f := s.spare
	s.taken = s.size
	s.spare = nil
	s.ready.Store(false)
	return f, s.path, nil
}

// sweep removes spares that a process left behind when it died.
func (s *space) sweep() error {
	names, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list the log's folder: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, spareSuffix) {
			if err := s.fsys.Remove(filepath.Join(s.dir, name)); err != nil {
				return fmt.Errorf("remove a spare segment: %w", err)
			}
		}
	}
	return nil
}

// close gives the spare's space back.
func (s *space) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		return
	}
	s.spare.Close()
	_ = s.fsys.Remove(s.path) // else the next New does
	s.spare = nil
	s.ready.Store(false)
}
