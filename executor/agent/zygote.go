//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// zygoteProcesses are those that a zygote has while a program runs: the one
// that waits, and the one that will wait after it.
const zygoteProcesses = 2

const (
	// importTimeout bounds what the driver imports at its start; the gateway has
	// a bound of its own.
	importTimeout = 30 * time.Second
	// zygoteTimeout bounds how long the next process may take to come forward.
	zygoteTimeout = 3 * time.Second
)

// zygote is a driver that has imported what programs need, and becomes the next
// one for each job: it forks one that will wait after it, takes the job, gives
// up its rights and runs the program. So the program is the agent's own child,
// whose end the agent sees for itself.
type zygote struct {
	agent   *agent
	channel *os.File      // the socket by which jobs are given
	waiting chan struct{} // gets one for each process that comes to wait
	pid     int           // the process that waits
}

// startZygote starts it, as the agent's own user, and waits until it waits.
func (a *agent) startZygote(spec wire.Process) (*zygote, error) {
	if !a.users.separate() {
		return nil, errors.New("programs that share the agent's user cannot be forked")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the socket for jobs: %w", err)
	}
	z := &zygote{agent: a, channel: os.NewFile(uintptr(pair[0]), "jobs"), waiting: make(chan struct{}, 2)}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("start a driver that forks: %w", err)
	}
	pipes := pipes{theirs: []*os.File{null, null, null, os.NewFile(uintptr(pair[1]), "jobs")}}
	defer pipes.closeTheirs()
	ready := pipes.fromChild()
	env := append(spec.Env, wire.ForkVariable+"=3", wire.ReadyVariable+"=4")
	p := &process{}
	if err := a.spawn(p, spec, env, 0, &pipes); err != nil {
		return nil, err
	}
	go func() {
		var word [1]byte
		for {
			if _, err := ready.Read(word[:]); err != nil {
				close(z.waiting)
				return
			}
			if word[0] == wire.ReadyParked {
				offer(z.waiting, struct{}{})
			}
		}
	}()
	return z, z.await(nil, importTimeout)
}

// await returns when a process waits for the next job: one of those that are
// known to be alive, where they are known.
func (z *zygote) await(alive []status, limit time.Duration) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case _, ok := <-z.waiting:
		if !ok {
			return errors.New("the driver that forks has ended")
		}
	case <-late.C:
		return errors.New("the driver that forks does not come to wait")
	}
	// Programs are no children of the agent that are root; of those that are, the
	// one that began first waits, and another will after it.
	if alive == nil {
		alive = processes()
	}
	first := uint64(math.MaxUint64)
	for _, s := range alive {
		if s.uid == 0 && s.parent == 1 && !s.dead {
			if at := beganAt(s.pid); at < first {
				first, z.pid = at, s.pid
			}
		}
	}
	if first != math.MaxUint64 {
		return nil
	}
	return errors.New("the driver that forks is not there")
}

// fork makes the process that waits a program of uid.
func (z *zygote) fork(uid int, spec wire.Process) (*process, error) {
	p := &process{pid: z.pid, child: z.agent.children.adopt(z.pid), waits: true}
	var pipes pipes
	defer pipes.closeTheirs()
	p.stdin = pipes.toChild()
	p.stdout, p.stderr = pipes.fromChild(), pipes.fromChild()
	p.job = pipes.toChild()
	p.ready = pipes.fromChild()
	if pipes.err != nil {
		return nil, pipes.err
	}
	told := wire.Fork{UID: uid, PIDs: spec.PIDs, Env: [][2]string{}}
	for _, variable := range spec.Env {
		name, value, _ := strings.Cut(variable, "=")
		told.Env = append(told.Env, [2]string{name, value})
	}
	message, err := json.Marshal(told)
	if err != nil {
		return nil, fmt.Errorf("fork a program: %w", err)
	}
	fds := make([]int, len(pipes.theirs))
	for i, file := range pipes.theirs {
		fds[i] = int(file.Fd()) // makes it blocking, as a program's end is
	}
	if err := unix.Sendmsg(int(z.channel.Fd()), message, unix.UnixRights(fds...), nil, 0); err != nil {
		return nil, fmt.Errorf("fork a program: %w", err)
	}
	p.listen()
	return p, nil
}
