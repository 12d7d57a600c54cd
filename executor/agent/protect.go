//go:build linux

package agent

import (
	"fmt"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const lastSignal = 64 // SIGRTMAX

// sigaction is the kernel's struct sigaction on amd64 and arm64.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigDefault = 0 // SIG_DFL
	sigIgnore  = 1 // SIG_IGN
)

// protect makes this process as hard to disturb as its lack of privileges
// allows. It must come before anything hostile is started.
//
// Non-dumpable means that /proc/1 belongs to root: memory, descriptors, ptrace
// and pidfd_getfd are refused to every process of the same user (ptrace(2),
// "Ptrace access mode checking").
func protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become non-dumpable: %w", err)
	}
	// The kernel drops signals to process 1 that have no handler, but the Go
	// runtime installs one for nearly all, and some of them end the program.
	for n := syscall.Signal(1); n <= lastSignal; n++ {
		// Ignoring SIGCHLD would lose the exit status of every child, and the
		// runtime sends itself SIGURG.
		if n != syscall.SIGCHLD && n != syscall.SIGURG {
			signal.Ignore(n)
		}
	}
	for _, n := range runtimeSignals {
		if err := setAction(n, sigIgnore); err != nil {
			return fmt.Errorf("ignore signal %d: %w", n, err)
		}
	}
	return nil
}

// runtimeSignals are those that os/signal cannot ignore and that kill a Go
// program when another process sends them. A real fault still kills: the kernel
// does not let a fault be ignored.
var runtimeSignals = []unix.Signal{
	unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS, unix.SIGPROF,
	32, 34, // kept by C libraries for threads; under gVisor process 1 is not spared their default
}

// defaultSignals gives every signal its default action back. Ignored signals
// are inherited through execve, and a program expects to be able to be stopped.
func defaultSignals() {
	for n := unix.Signal(1); n <= lastSignal; n++ {
		if n != unix.SIGKILL && n != unix.SIGSTOP {
			setAction(n, sigDefault) // signals that do not exist are no loss
		}
	}
}

func setAction(n unix.Signal, handler uintptr) error {
	action := sigaction{handler: handler}
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
