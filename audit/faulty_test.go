package audit

import (
	"io/fs"
	"strings"
	"sync"
	"syscall"
)

// faulty is a FileSystem whose calls fail as plan says. It is the real one
// otherwise.
type faulty struct {
	osFileSystem
	mu sync.Mutex
	// plan is asked before each call that changes the disk, or opens a file. What is done
	// to a file that is no segment is called "other write" and so on: a checkpoint may be
	// written at any time.
	plan  func(op string, n int) fault1
	calls int
	hits  int
}

// fault1 is how one call fails; the zero value lets it pass.
type fault1 struct {
	err error
	// short lets half of a write happen; late lets all of a rename, a removal or a
	// sync of a folder happen; lost makes what was written since the last fdatasync go, as
	// a kernel may that could not write its pages.
	short, late, lost bool
}

func (f *faulty) next(op string) fault1 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.plan == nil {
		return fault1{}
	}
	hit := f.plan(op, f.calls)
	if hit.err != nil {
		f.hits++
	}
	return hit
}

// set changes the plan and returns how often the last one hit.
func (f *faulty) set(plan func(op string, n int) fault1) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = plan
	return f.hits
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	op := "open"
	if flag&syscall.O_CREAT != 0 {
		op = "create"
	}
	if hit := f.next(op); hit.err != nil {
		return nil, hit.err
	}
	file, err := f.osFileSystem.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	kind := ""
	if strings.HasSuffix(name, ".tmp") { // of replaceFile
		kind = "other "
	}
	return &faultyFile{File: file, fs: f, kind: kind}, nil
}

func (f *faulty) MkdirAll(dir string, perm fs.FileMode) error {
	if hit := f.next("mkdir"); hit.err != nil {
		return hit.err
	}
	return f.osFileSystem.MkdirAll(dir, perm)
}

func (f *faulty) Rename(from, to string) error {
	hit := f.next("rename")
	if hit.err == nil || hit.late {
		if err := f.osFileSystem.Rename(from, to); err != nil {
			return err
		}
	}
	return hit.err
}

func (f *faulty) Remove(name string) error {
	hit := f.next("remove")
	if hit.err == nil || hit.late {
		if err := f.osFileSystem.Remove(name); err != nil {
			return err
		}
	}
	return hit.err
}

func (f *faulty) SyncDir(dir string) error {
	hit := f.next("syncdir")
	if hit.err == nil || hit.late {
		if err := f.osFileSystem.SyncDir(dir); err != nil {
			return err
		}
	}
	return hit.err
}

type written struct{ off, n int64 }

type faultyFile struct {
	File
	fs       *faulty
	kind     string    // before the name of a call
	unsynced []written // one goroutine writes a file
	failed   bool
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if f.failed {
		// A kernel that could not write a page may take it for written: no later
		// success on such a file means anything.
		panic("a file is written again whose write or fdatasync failed")
	}
	hit := f.fs.next(f.kind + "write")
	f.failed = hit.err != nil
	n := len(p)
	if hit.err != nil {
		if !hit.short {
			return 0, hit.err
		}
		n /= 2
	}
	f.unsynced = append(f.unsynced, written{off, int64(n)})
	if m, err := f.File.WriteAt(p[:n], off); err != nil {
		return m, err
	}
	return n, hit.err
}

func (f *faultyFile) Writeback(off, n int64) error {
	if hit := f.fs.next("writeback"); hit.err != nil {
		f.failed = true
		return hit.err
	}
	return f.File.Writeback(off, n)
}

func (f *faultyFile) Datasync() error {
	hit := f.fs.next(f.kind + "datasync")
	f.failed = f.failed || hit.err != nil
	if hit.err == nil {
		f.unsynced = nil
		return f.File.Datasync()
	}
	if hit.lost {
		for _, w := range f.unsynced {
			if _, err := f.File.WriteAt(make([]byte, w.n), w.off); err != nil {
				return err
			}
		}
	}
	return hit.err
}

func (f *faultyFile) Allocate(size int64) error {
	if hit := f.fs.next(f.kind + "allocate"); hit.err != nil {
		return hit.err
	}
	return f.File.Allocate(size)
}
