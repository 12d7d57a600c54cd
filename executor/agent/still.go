//go:build linux

package agent

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stillness is whether a process that stays stands still between two jobs. A stop
// alone does not make it so: SIGCONT also comes from a thread that was about to
// send it, from a timer, from a child that ends, from a change of a folder.
type stillness struct {
	mu    sync.Mutex
	kept  bool
	guard chan struct{} // closed when nobody watches it any more; nil before the first time
}

// stopTimeout bounds how long a process is stopped again and again that goes on,
// and stopPause is between two times.
const (
	stopTimeout = time.Second
	stopPause   = 50 * time.Microsecond
)

// freeze ends all other processes, and stops this one until it begins again. One
// that goes on before that is killed; where it cannot even be stopped this is so
// at once, and freeze returns false.
func (p *process) freeze() bool {
	if p.still.guard != nil {
		<-p.still.guard // it has seen the process go on, or end
	}
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); {
		signalAll(unix.SIGSTOP)
		killEach(p.child.of, func(other status) bool { return other.pid != p.pid })
		if p.stopped() && p.forgetStops() && p.stopped() {
			p.still.mu.Lock()
			p.still.kept, p.still.guard = true, make(chan struct{})
			p.still.mu.Unlock()
			go p.watchStill()
			return true
		}
		if !p.alive() {
			return false
		}
		p.child.await(stopPause)
	}
	signalAll(unix.SIGKILL)
	return false
}

// thaw lets the process go on.
func (p *process) thaw() {
	p.still.mu.Lock()
	p.still.kept = false
	p.still.mu.Unlock()
	unix.Kill(p.pid, unix.SIGCONT)
}

// isStill reports whether it stands still since it was frozen.
func (p *process) isStill() bool {
	p.still.mu.Lock()
	defer p.still.mu.Unlock()
	return p.still.kept && p.alive()
}

// watchStill waits until the process goes on, and kills it with all that it may
// have forked unless it was let.
func (p *process) watchStill() {
	defer close(p.still.guard)
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WSTOPPED|unix.WCONTINUED, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.still.mu.Lock()
	defer p.still.mu.Unlock()
	if p.still.kept {
		p.still.kept = false
		signalAll(unix.SIGKILL)
	}
}

// forgetStops takes the kernel's word of every stop so far, so that the next one
// is of what comes after.
func (p *process) forgetStops() bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WSTOPPED|unix.WCONTINUED|unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		if info.Signo == 0 {
			return true
		}
	}
}

// stopped reports whether every thread of the process is stopped, or has ended.
func (p *process) stopped() bool {
	folder := "/proc/" + strconv.Itoa(p.pid) + "/task/"
	tasks, err := readNames(folder)
	if err != nil {
		return false
	}
	for _, task := range tasks {
		stat, err := readFile(folder + task + "/stat")
		if err != nil {
			return false
		}
		if state := stateOf(stat); state != "T" && state != "Z" && state != "X" {
			return false
		}
	}
	return len(tasks) > 0
}

// stateOf is the state in a line of /proc/PID/stat (proc_pid_stat(5)), after the
// name, which may hold anything.
func stateOf(stat []byte) string {
	line := string(stat)
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}
