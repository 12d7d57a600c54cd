package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// file appends lines to a file. The file is somebody else's to rotate: before and after
// each write the path is looked at, and where it leads to another file, or none, that one
// is opened or made, and gets the lines too.
type file struct {
	path string
	pace pace
	out  io.Writer // in the place of a file: the standard output

	open *os.File
	torn bool // the file ends within a line
	busy chan struct{}
}

func newFile(s Sink, stdout io.Writer, p pace) (*file, error) {
	f := &file{path: s.Path, pace: p, busy: make(chan struct{}, 1)}
	if s.Path != Stdout {
		return f, nil
	}
	if f.out = stdout; stdout != nil {
		return f, nil
	}
	// A write to the descriptor 1 itself would kill the process once nobody reads it.
	fd, err := syscall.Dup(syscall.Stdout)
	if err != nil {
		return nil, fmt.Errorf("copy the descriptor of the standard output: %w", err)
	}
	syscall.CloseOnExec(fd)
	f.out = os.NewFile(uintptr(fd), "standard output")
	return f, nil
}

// send implements outlet. A disk, or whoever reads a pipe, may not answer at all: a write
// cannot be called back, so that it goes on alone where ctx ends, and nothing further is
// written until it has ended.
func (f *file) send(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, f.pace.attempt)
	defer cancel()
	select {
	case f.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("write to %s: an earlier write has not ended: %w", f.path, ctx.Err())
	}
	lines := make([]byte, 0, b.bytes+len(b.items))
	for _, i := range b.items {
		lines = append(append(lines, i.text...), '\n')
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-f.busy }()
		done <- f.write(lines)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write to %s: %w", f.path, ctx.Err())
	}
}

func (f *file) settled(next uint64) uint64 { return next }

func (f *file) write(lines []byte) error {
	if f.out != nil {
		if f.torn {
			lines = append([]byte{'\n'}, lines...)
		}
		n, err := f.out.Write(lines)
		if n > 0 {
			f.torn = lines[n-1] != '\n'
		}
		return err
	}
	// What is written while the file is moved away may be in one that is compressed and
	// removed already: then it is written again.
	for range 3 {
		if err := f.reopen(); err != nil {
			return err
		}
		if err := f.append(lines); err != nil {
			return err
		}
		if f.inPlace() {
			return nil
		}
	}
	return fmt.Errorf("write to %s: it was replaced again and again meanwhile", f.path)
}

// reopen sees to it that the file is open which the path leads to.
func (f *file) reopen() error {
	if f.open != nil && f.inPlace() {
		return nil
	}
	f.shut()
	// Without O_NONBLOCK a pipe that nobody reads would be waited for.
	opened, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	info, err := opened.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", f.path)
	}
	f.torn = false
	if err == nil && info.Size() > 0 {
		var last [1]byte
		_, err = opened.ReadAt(last[:], info.Size()-1)
		f.torn = last[0] != '\n'
	}
	if err == nil && info.Size() == 0 {
		err = syncDir(filepath.Dir(f.path)) // it may be new
	}
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	f.open = opened
	return nil
}

// inPlace reports whether the path leads to the file that is open.
func (f *file) inPlace() bool {
	named, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	open, err := f.open.Stat()
	return err == nil && os.SameFile(named, open)
}

// append writes whole lines, durably. Where only a part was written it takes that back,
// or else begins a new line the next time.
func (f *file) append(lines []byte) error {
	before, err := f.open.Stat()
	if err != nil {
		return err
	}
	if f.torn {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := f.open.Write(lines)
	if err == nil {
		f.torn = false
		if err = f.open.Sync(); err != nil {
			// Whether it is on the disk is not known, and is not told a second time.
			f.shut()
		}
		return err
	}
	if n > 0 {
		after, statErr := f.open.Stat()
		alone := statErr == nil && after.Size() == before.Size()+int64(n)
		if !alone || f.open.Truncate(before.Size()) != nil {
			f.torn = true
		}
	}
	return err
}

func (f *file) shut() {
	if f.open != nil {
		_ = f.open.Close() // what was acknowledged was synced
		f.open = nil
	}
}

// close implements outlet. A write that has not ended keeps its file.
func (f *file) close() {
	select {
	case f.busy <- struct{}{}:
		f.shut()
		<-f.busy
	default:
	}
}
