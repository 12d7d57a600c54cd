package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Serve answers each message of in on out, one after the other, in a process
// that a Pool started. It returns when in has ended; end is called then, also
// while an answer is being worked out, since whoever wanted it is gone.
func Serve(in io.Reader, out io.Writer, answer func(message []byte) []byte, end func()) error {
	messages := make(chan []byte)
	failed := make(chan error, 1)
	go func() {
		defer close(messages)
		r := bufio.NewReader(in)
		for {
			message, err := ReadFrame(r, MaxFrame)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					failed <- err
				}
				end()
				return
			}
			messages <- message
		}
	}()
	for message := range messages {
		if err := WriteFrame(out, answer(message)); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
	select {
	case err := <-failed:
		return fmt.Errorf("read message: %w", err)
	default:
		return nil
	}
}

// LimitMemory bounds the address space of this process to so many MiB more than
// it has now (RLIMIT_AS, setrlimit(2)): past that it dies, whatever it was doing.
// What the program itself reserves is not counted, because Go reserves far more
// than it uses.
func LimitMemory(mib int64) error {
	text, err := os.ReadFile("/proc/self/statm") // in pages, proc_pid_statm(5)
	if err != nil {
		return fmt.Errorf("read the size of this process: %w", err)
	}
	size, _, _ := strings.Cut(string(text), " ")
	pages, err := strconv.ParseUint(size, 10, 64)
	if err != nil {
		return fmt.Errorf("read the size of this process: %w", err)
	}
	most := pages*uint64(os.Getpagesize()) + uint64(mib)<<20
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
		return fmt.Errorf("bound the memory of this process: %w", err)
	}
	// A process that dies of this has nothing to leave behind.
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
