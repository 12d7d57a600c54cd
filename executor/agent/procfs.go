//go:build linux

package agent

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Files of /proc and of control groups are read without the runtime's poller,
// which costs four more system calls for each and is of no use there.

// fileBytes is what is read of such a file at first.
const fileBytes = 4 << 10

// readFile returns the whole content of a small file of the kernel's.
func readFile(path string) ([]byte, error) {
	fd, err := openRaw(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	content := make([]byte, 0, fileBytes)
	for {
		content = slices.Grow(content, fileBytes)
		n, err := unix.Read(fd, content[len(content):cap(content)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return content, nil
		}
		content = content[:len(content)+n]
	}
}

// readNames lists a folder.
func readNames(path string) ([]string, error) {
	fd, err := openRaw(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buffer := make([]byte, fileBytes)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

func openRaw(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
