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

// becomeProgram is the agent's second life: it bounds itself and then turns
// into the program. args are the process limit, the descriptor to close by
// becoming the program, and the program's argv; its streams are in place already.
//
// A process cannot be bounded from outside without a race against its first
// fork, and Go offers no hook between fork and exec; hence this step.
func becomeProgram(args []string) int {
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if len(args) < 3 {
		return refuse(exitCannotRun, errors.New("usage: exec PIDS DESCRIPTOR PROGRAM [ARG]"))
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
	argv := args[2:]
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
	return refuse(exitCannotRun, syscall.Exec(path, argv, os.Environ()))
}

func refuse(code int, err error) int {
	fmt.Fprintln(os.Stderr, "execgate: cannot start the program:", err)
	return code
}
