package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tailBytes is what Kept returns of a file's end: some two hundred checkpoints.
const tailBytes = 64 << 10

// File keeps checkpoints by appending them to a file, each after an empty line. The
// file should lie on another machine's disk, or allow nothing but appending
// (chattr +a). It never grows shorter and is never replaced.
type File struct{ path string }

// NewFile returns the witness that a file is. The file is made when it is first
// needed; its folder must be there.
func NewFile(path string) (*File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the witness file %q needs an absolute path", path)
	}
	return &File{path}, nil
}

// Name implements audit.Witness.
func (*File) Name() string { return "file" }

// Keep implements audit.Witness. It ignores ctx: a write cannot be called off.
func (f *File) Keep(_ context.Context, checkpoint []byte) error {
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("open the witness file: %w", err)
	}
	// One write, and begun on a line of its own whatever the last one left.
	_, err = file.Write(append([]byte("\n"), checkpoint...))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write the witness file: %w", err)
	}
	return nil
}

// Kept implements audit.Witness: it returns the end of the file.
func (f *File) Kept(context.Context) ([]byte, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the witness file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the witness file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the witness file %s is not a regular file", f.path)
	}
	begin := max(0, info.Size()-tailBytes)
	tail, err := io.ReadAll(io.NewSectionReader(file, begin, info.Size()-begin))
	if err != nil {
		return nil, fmt.Errorf("read the witness file: %w", err)
	}
	if begin > 0 { // what may begin within a line
		_, tail, _ = bytes.Cut(tail, []byte("\n"))
	}
	return tail, nil
}
