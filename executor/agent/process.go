//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// process is a main process: the user's program, or the driver that runs it.
// The files are the agent's ends of its pipes.
type process struct {
	pid   int
	child *child

	stdin          *os.File // of one that stays: a file that is filled anew for each job
	stdout, stderr *os.File
	job            *os.File // where a driver reads its job; nil without a driver
	ready          *os.File // where a driver says how far it is; nil where it does not
	started        *os.File // reads as ended once the process is the program

	waits bool // says when it has its job
	stays bool // takes further jobs
	busy  atomic.Bool

	still stillness // of one that stays

	parkedAt chan struct{} // closed when it waits for its first job
	taken    chan struct{} // gets one for each job it has
	done     chan byte     // gets the exit status of each job it has done
}

// launch starts a process with its streams connected, and a driver with a pipe
// for its job; one that is parked, or stays, says on another how far it is.
func (a *agent) launch(spec wire.Process, driver, parked bool, uid int) (*process, error) {
	if len(spec.Argv) == 0 {
		return nil, errors.New("start without a program")
	}
	p := &process{waits: parked || spec.Stays, stays: spec.Stays}
	var pipes pipes
	defer pipes.closeTheirs()
	if p.stays {
		p.stdin = pipes.shared("stdin")
	} else {
		p.stdin = pipes.toChild()
	}
	p.stdout, p.stderr = pipes.fromChild(), pipes.fromChild()
	if driver {
		p.job = pipes.toChild()
	}
	env := spec.Env
	if p.waits {
		env = append(env, fmt.Sprintf("%s=%d", wire.ReadyVariable, len(pipes.theirs)))
		p.ready = pipes.fromChild()
	}
	if p.stays {
		env = append(env, wire.SessionVariable+"=1")
	}
	if err := a.spawn(p, spec, env, uid, &pipes); err != nil {
		return nil, err
	}
	p.listen()
	return p, nil
}

// spawn starts p through the step that bounds it.
func (a *agent) spawn(p *process, spec wire.Process, env []string, uid int, pipes *pipes) (err error) {
	// The step that becomes the program closes its end by doing so.
	descriptor := len(pipes.theirs)
	p.started = pipes.fromChild()
	if pipes.err != nil {
		return pipes.err
	}
	limit := spec.PIDs
	if uid == 0 {
		// The limit counts every thread of the user, so the agent's own are added.
		limit += int64(ownThreads())
	}
	argv := append([]string{
		wire.AgentPath, execArgument, strconv.FormatInt(limit, 10), strconv.Itoa(descriptor), strconv.Itoa(uid),
	}, spec.Argv...)
	p.child, err = a.children.spawn(argv, env, pipes.theirs)
	if err == nil {
		p.pid = p.child.pid
	}
	return err
}

// listen follows what a driver says on its ready descriptor. The program could
// say it too, and would only fool itself.
func (p *process) listen() {
	if p.ready == nil {
		return
	}
	p.parkedAt, p.taken = make(chan struct{}), make(chan struct{}, 1)
	p.done = make(chan byte, 1)
	go func() {
		parked := false
		var word [1]byte
		for {
			if _, err := io.ReadFull(p.ready, word[:]); err != nil {
				return
			}
			switch word[0] {
			case wire.ReadyParked:
				if !parked {
					close(p.parkedAt)
				}
				parked = true
			case wire.ReadyTaken:
				offer(p.taken, struct{}{})
			case wire.ReadyDone:
				if _, err := io.ReadFull(p.ready, word[:]); err != nil {
					return
				}
				offer(p.done, word[0])
			}
		}
	}()
}

// offer gives v to whoever waits for it, or leaves it for who comes next.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}

// park waits until a driver is ready for its first job. From then on the
// sandbox ends with it, so that one which died while it waited is never used.
func (p *process) park() error {
	select {
	case <-p.parkedAt:
	case <-p.child.gone:
		return errors.New("the driver ended instead of waiting for its job")
	}
	if p.stays {
		if !p.freeze() {
			return errors.New("the driver does not stand still")
		}
		return nil // a session starts another
	}
	go func() {
		<-p.child.gone
		if !p.busy.Load() {
			os.Exit(1)
		}
	}()
	return nil
}

// usable reports whether a process that waits can take a job. One that did not
// stand still meanwhile was killed.
func (p *process) usable() bool {
	if p.stays && !p.isStill() {
		<-p.child.gone
	}
	return p.alive()
}

// leave makes a driver that waits end without a job.
func (p *process) leave() {
	p.busy.Store(true)
	p.close()
}

// alive reports whether the process has not ended.
func (p *process) alive() bool {
	select {
	case <-p.child.gone:
		return false
	default:
		return true
	}
}

// begin lets the process run, and gives a driver its job.
func (p *process) begin(job *string) {
	p.busy.Store(true)
	if p.stays {
		empty(p.taken)
		empty(p.done)
		p.thaw()
	}
	if p.job == nil || job == nil {
		return
	}
	go func() {
		io.WriteString(p.job, *job) // a driver that has died reads nothing
		if !p.stays {
			p.job.Close()
		}
	}()
}

func empty[T any](c chan T) {
	select {
	case <-c:
	default:
	}
}

// fill passes standard input on. One that stays finds all of it in a file.
func (p *process) fill(from net.Conn) error {
	if !p.stays {
		go func() {
			defer from.Close()
			io.Copy(p.stdin, from)
			p.stdin.Close()
			io.Copy(io.Discard, from) // what no program reads must not hold the gateway up
		}()
		return nil
	}
	defer from.Close()
	if err := p.stdin.Truncate(0); err != nil {
		return fmt.Errorf("empty the standard input: %w", err)
	}
	if _, err := p.stdin.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind the standard input: %w", err)
	}
	if _, err := io.Copy(p.stdin, from); err != nil {
		return fmt.Errorf("fill the standard input: %w", err)
	}
	if _, err := p.stdin.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind the standard input: %w", err)
	}
	return nil
}

// close gives up the agent's ends.
func (p *process) close() {
	for _, file := range []*os.File{p.stdin, p.stdout, p.stderr, p.job, p.ready} {
		if file != nil {
			file.Close()
		}
	}
}

// pipes connects a process that is to be started, one descriptor after another
// from 0.
type pipes struct {
	theirs []*os.File
	err    error
}

func (p *pipes) toChild() *os.File   { r, w := p.make(); p.theirs = append(p.theirs, r); return w }
func (p *pipes) fromChild() *os.File { r, w := p.make(); p.theirs = append(p.theirs, w); return r }

func (p *pipes) make() (r, w *os.File) {
	if p.err != nil {
		return nil, nil
	}
	if r, w, p.err = os.Pipe(); p.err != nil {
		p.err = fmt.Errorf("make a pipe: %w", p.err)
	}
	return r, w
}

// shared is a file in memory whose position both sides move.
func (p *pipes) shared(name string) *os.File {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		p.err = fmt.Errorf("make a file in memory: %w", err)
		return nil
	}
	file := os.NewFile(uintptr(fd), name)
	theirs, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		p.err = fmt.Errorf("make a file in memory: %w", err)
	}
	p.theirs = append(p.theirs, os.NewFile(uintptr(theirs), name))
	return file
}

// closeTheirs closes the process's ends, which it has by then.
func (p *pipes) closeTheirs() {
	for _, file := range p.theirs {
		file.Close()
	}
}

// forkExec starts argv in a session of its own with files as its first
// descriptors. os/exec is not used because process 1 must reap every child
// itself.
func forkExec(argv, env []string, files []*os.File) (int, error) {
	fds := make([]uintptr, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return 0, fmt.Errorf("start the program: %w", err)
		}
		raw.Control(func(fd uintptr) { fds[i] = fd })
		// A pipe that the runtime polls is non-blocking; the program's end must
		// block, as every program expects of its standard streams.
		if err := unix.SetNonblock(int(fds[i]), false); err != nil {
			return 0, fmt.Errorf("start the program: %w", err)
		}
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: wire.Workspace, Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start the program: %w", err)
	}
	return pid, nil
}
