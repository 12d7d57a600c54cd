//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// Exit codes of a program that could not be started, as a shell gives them.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

// execArgument is the agent's first argument in its second life.
const execArgument = "exec"

// becomeProgram is the agent's second life: it bounds itself and then turns
// into the program. args are the process limit, the descriptor to close by
// becoming the program, the user to become (0: none), and the program's argv;
// its streams are in place already.
//
// A process cannot be bounded from outside without a race against its first
// fork, and Go offers no hook between fork and exec; hence this step.
func becomeProgram(args []string) int {
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if len(args) < 4 {
		return refuse(exitCannotRun, errors.New("usage: exec PIDS DESCRIPTOR UID PROGRAM [ARG]"))
	}
	pids, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return refuse(exitCannotRun, err)
	}
	starting, err := strconv.Atoi(args[1])
	if err != nil {
		return refuse(exitCannotRun, err)
	}
	unix.CloseOnExec(starting)
	uid, err := strconv.Atoi(args[2])
	if err != nil {
		return refuse(exitCannotRun, err)
	}
	argv := args[3:]
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if errors.Is(err, fs.ErrPermission) {
			return refuse(exitCannotRun, err)
		}
		return refuse(exitNotFound, err)
	}
	if err := os.Chdir(wire.Workspace); err != nil {
		return refuse(exitCannotRun, err)
	}
	// First in line when memory runs out, well before the agent. A host that
	// does not allow it loses nothing but that order.
	os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)

	syscall.Umask(0o022)
	defaultSignals()
	limit := syscall.Rlimit{Cur: pids, Max: pids}
	if err := syscall.Setrlimit(unix.RLIMIT_NPROC, &limit); err != nil {
		return refuse(exitCannotRun, fmt.Errorf("limit processes: %w", err))
	}
	if uid != 0 {
		if err := becomeUser(uid); err != nil {
			return refuse(exitCannotRun, err)
		}
	}
	return refuse(exitCannotRun, syscall.Exec(path, argv, os.Environ()))
}

// lastCapability is past any that a kernel has (CAP_LAST_CAP is 40 in Linux 6).
const lastCapability = 63

// becomeUser gives up every right of root, on this thread, which is the one that
// becomes the program: what is permitted and effective goes with the user.
func becomeUser(uid int) error {
	for n := range uintptr(lastCapability + 1) {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("give up capability %d: %w", n, err)
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("give up groups: %w", errno)
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return fmt.Errorf("become user %d: %w", uid, errno)
		}
	}
	return nil
}

func refuse(code int, err error) int {
	fmt.Fprintln(os.Stderr, "execgate: cannot start the program:", err)
	return code
}
