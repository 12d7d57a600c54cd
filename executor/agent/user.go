//go:build linux

package agent

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// users are whom programs run as.
type users struct {
	base int // the first of their own; 0: they run as whom the agent is
}

// usersOf reads the agent's arguments.
func usersOf(args []string) (users, error) {
	if len(args) == 0 {
		return users{}, nil
	}
	if len(args) == 2 && args[0] == wire.ReusableArgument {
		if base, err := strconv.Atoi(args[1]); err == nil && base > 0 {
			return users{base}, nil
		}
	}
	return users{}, fmt.Errorf("usage: %s [%s UID]", wire.AgentPath, wire.ReusableArgument)
}

// separate reports whether each program has a user of its own.
func (u users) separate() bool { return u.base != 0 }

// share lets every user write to folders of the agent's own: a runtime may have
// given a mount the mode that the image has at its place.
func (u users) share(folders []string) error {
	if !u.separate() {
		return nil
	}
	for _, folder := range folders {
		if err := os.Chmod(folder, os.ModeSticky|0o777); err != nil {
			return fmt.Errorf("share a folder: %w", err)
		}
	}
	return nil
}

// of is the user of a round; 0 means the agent's own.
func (u users) of(round uint32) int {
	if !u.separate() {
		return 0
	}
	return u.base + int(round%wire.UserCount)
}

// as runs do on a thread with the rights of uid to files, and no other; where
// uid is 0 with the agent's own. What do starts elsewhere does not have them.
//
// Only the effective ids change, so a program of that user can still not signal
// the thread (kill(2) compares the real and the saved one).
func as(uid int, do func() error) error {
	if uid == 0 {
		return do()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setEffective(uid); err != nil {
		fatal(err)
	}
	err := do()
	if err := setEffective(0); err != nil {
		fatal(err)
	}
	return err
}

// fatal ends the sandbox: a thread with half of its rights is good for nothing.
func fatal(err error) {
	fmt.Fprintln(os.Stderr, "execgate-agent:", err)
	os.Exit(1)
}

// setEffective changes this thread's ids: the group first where rights are
// given up, and last where they come back.
func setEffective(uid int) error {
	calls := []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID}
	if uid == 0 {
		calls[0], calls[1] = calls[1], calls[0]
	}
	const unchanged = ^uintptr(0)
	for _, call := range calls {
		if _, _, errno := unix.RawSyscall(call, unchanged, uintptr(uid), unchanged); errno != 0 {
			return fmt.Errorf("become user %d: %w", uid, errno)
		}
	}
	return nil
}
