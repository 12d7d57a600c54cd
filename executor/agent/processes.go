//go:build linux

package agent

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// status is what /proc says of another process (proc_pid_status(5)).
type status struct {
	pid, parent, uid int
	dead             bool // waits to be reaped, and no thread of it runs
}

// unknown is what is known of a process that is there and cannot be looked at: it
// is a program's, and a signal to it reaches nobody.
const unknown = 1 << 30

// processes lists every process in the sandbox but the agent.
func processes() []status {
	names, err := readNames("/proc")
	if err != nil {
		return []status{{pid: unknown, uid: unknown}}
	}
	var list []status
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' || name == "1" {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := statusOf(pid); ok {
			list = append(list, s)
		}
	}
	return list
}

// statusOf reports on one process; one that is gone is not ok.
func statusOf(pid int) (s status, ok bool) {
	s.pid = pid
	content, err := readFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err == unix.ENOENT || err == unix.ESRCH {
		return s, false
	}
	if err != nil {
		s.uid = unknown
		return s, true
	}
	zombie, threads := false, 0
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		number, _ := strconv.Atoi(fields[0])
		switch name {
		case "State":
			zombie = fields[0] == "Z" || fields[0] == "X"
		case "PPid":
			s.parent = number
		case "Uid":
			s.uid = number
		case "Threads":
			threads = number
		}
	}
	// A process whose first thread has ended shows as a zombie while others run.
	s.dead = zombie && threads <= 1
	return s, true
}

// exitingFlag is PF_EXITING of a task's flags (proc_pid_stat(5), field 9), which
// the kernel sets where no way leads back to the program. gVisor shows no flags.
const exitingFlag = 0x4

// noneRuns reports whether every thread in the sandbox, but the agent's own and
// where separate is set those of other root processes, is on its way out.
func noneRuns(separate bool) bool {
	for _, s := range processes() {
		if separate && !isProgram(s) {
			continue
		}
		folder := "/proc/" + strconv.Itoa(s.pid) + "/task/"
		tasks, err := readNames(folder)
		if s.uid == unknown || err != nil && err != unix.ENOENT && err != unix.ESRCH {
			return false
		}
		for _, task := range tasks {
			stat, err := readFile(folder + task + "/stat")
			if err == nil && !exiting(stat) || err != nil && err != unix.ENOENT && err != unix.ESRCH {
				return false
			}
		}
	}
	return true
}

// beganAt is when a process began, in ticks since the boot (proc_pid_stat(5), field
// 22); the largest number where that cannot be read.
func beganAt(pid int) uint64 {
	stat, err := readFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return math.MaxUint64
	}
	const field = 22 - 3 // after the name, which may hold anything
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= field {
		return math.MaxUint64
	}
	at, err := strconv.ParseUint(fields[field], 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return at
}

// exiting reads the state and the flags after the name, which may hold anything.
func exiting(stat []byte) bool {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return fields[0] == "Z" || fields[0] == "X" || err == nil && flags&exitingFlag != 0
}

// isProgram holds for processes that are not the agent's own kind: in the
// profile "reusable" only those that wait to fork are root.
func isProgram(s status) bool { return s.uid != 0 }

// signalAll sends n to everything in the sandbox but the agent: as process 1,
// -1 names every process it can see except itself.
func signalAll(n unix.Signal) { unix.Kill(-1, n) }

// signalEach sends n to those processes that are wanted, and reports whether
// one of them is not dead.
func signalEach(n unix.Signal, wanted func(status) bool) (found bool) {
	for _, s := range processes() {
		if wanted(s) && !s.dead {
			found = true
			unix.Kill(s.pid, n)
		}
	}
	return found
}

// killEach ends those processes that are wanted, and whatever they fork
// meanwhile: they are stopped first, so that they do not.
func killEach(c *children, wanted func(status) bool) {
	if !signalEach(unix.SIGKILL, wanted) {
		return
	}
	for signalEach(unix.SIGSTOP, wanted) {
		signalEach(unix.SIGKILL, wanted)
		c.await()
	}
}
