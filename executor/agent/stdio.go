//go:build linux

package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stdio joins standard input and output into the stream to the gateway.
type stdio struct{ in, out *os.File }

// openStdio moves the stream away from descriptors 0 and 1, so that no program
// can inherit it by accident, and makes it non-blocking, so that waiting for it
// takes no thread out of the sandbox's process limit.
func openStdio() (*stdio, error) {
	var files [2]*os.File
	for fd := range files {
		moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			return nil, fmt.Errorf("take over descriptor %d: %w", fd, err)
		}
		if err := unix.SetNonblock(moved, true); err != nil {
			return nil, fmt.Errorf("take over descriptor %d: %w", fd, err)
		}
		files[fd] = os.NewFile(uintptr(moved), "gateway")
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("take over standard streams: %w", err)
	}
	defer null.Close()
	for fd := range files {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return nil, fmt.Errorf("take over descriptor %d: %w", fd, err)
		}
	}
	return &stdio{in: files[0], out: files[1]}, nil
}

func (s *stdio) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *stdio) Close() error {
	s.in.Close()
	return s.out.Close()
}
