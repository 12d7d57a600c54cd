//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// program is the user's program and everything it started.
type program struct {
	pid    int
	job    *os.File // where a driver reads its job; nil without a driver
	ready  *os.File // where a parked driver says how far it is; nil where it is not parked
	taken  chan struct{}
	output sync.WaitGroup

	started *os.File // reads as ended once the process is the program
	watch   *watch
	begun   time.Time
	cpuUsed int64 // microseconds, before the program had its job
}

// launch starts a process with its streams connected: a driver with a pipe for
// its job, and one that is parked with a pipe on which it says so.
func launch(process wire.Process, s streams, driver, parked bool) (*program, error) {
	if len(process.Argv) == 0 {
		return nil, errors.New("start without a program")
	}
	if err := os.MkdirAll(filepath.Join(wire.Workspace, outFolder), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for artifacts: %w", err)
	}
	p := &program{}
	var pipes pipes
	defer pipes.closeTheirs()
	stdin, stdout, stderr := pipes.toChild(), pipes.fromChild(), pipes.fromChild()
	if driver {
		p.job = pipes.toChild()
	}
	env := process.Env
	if parked {
		env = append(env, fmt.Sprintf("%s=%d", wire.ReadyVariable, len(pipes.theirs)))
		p.ready = pipes.fromChild()
	}
	// The step that becomes the program closes its end by doing so.
	descriptor := len(pipes.theirs)
	p.started = pipes.fromChild()
	if pipes.err != nil {
		return nil, pipes.err
	}

	// The limit counts every thread of this user, so the agent's own are added.
	own := int64(ownThreads())
	argv := append([]string{
		wire.AgentPath, "exec", strconv.FormatInt(process.PIDs+own, 10), strconv.Itoa(descriptor),
	}, process.Argv...)
	p.watch = newWatch(process.PIDs, own)
	p.begun = time.Now()
	var err error
	if p.pid, err = spawn(argv, env, pipes.theirs); err != nil {
		return nil, err
	}
	go func() {
		defer stdin.Close()
		io.Copy(stdin, s.stdin)
	}()
	for stream, from := range map[io.WriteCloser]*os.File{s.stdout: stdout, s.stderr: stderr} {
		p.output.Go(func() {
			defer stream.Close()
			io.Copy(stream, from)
		})
	}
	return p, nil
}

// parked waits until a driver is ready for its job. From then on the sandbox
// ends with it, so that one which died while it waited is never used.
func (p *program) parked() error {
	if word, err := readWord(p.ready); err != nil || word != wire.ReadyParked {
		return errors.New("the driver ended instead of waiting for its job")
	}
	p.taken = make(chan struct{})
	go func() {
		if word, err := readWord(p.ready); err != nil || word != wire.ReadyTaken {
			os.Exit(1)
		}
		close(p.taken)
	}()
	return nil
}

// begin gives a driver its job, and returns once a parked one has it; a program
// without a driver has begun already.
func (p *program) begin(job *string) {
	if p.job != nil && job != nil {
		go p.send(*job)
	}
	if p.ready != nil {
		p.begun, p.cpuUsed = time.Now(), cgroupNow.cpuUS()
		<-p.taken
	}
	go p.watch.run(p.started)
}

func (p *program) send(job string) {
	defer p.job.Close()
	io.WriteString(p.job, job) // a driver that has died reads nothing
}

func readWord(from *os.File) (byte, error) {
	var word [1]byte
	_, err := io.ReadFull(from, word[:])
	return word[0], err
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

// closeTheirs closes the process's ends, which it has by then.
func (p *pipes) closeTheirs() {
	for _, file := range p.theirs {
		file.Close()
	}
}

// spawn starts argv in a session of its own with files as its first
// descriptors. os/exec is not used because process 1 must reap every child
// itself.
func spawn(argv, env []string, files []*os.File) (int, error) {
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

// signalAll sends n to everything in the sandbox but the agent: as process 1,
// -1 names every process it can see except itself.
func signalAll(n int) { unix.Kill(-1, unix.Signal(n)) }

// wait reaps until the main process has ended, kills whatever it left, and
// returns once nothing of it is alive and all its output has been passed on.
func (p *program) wait() wire.Exited {
	var exited wire.Exited
	for ended := false; ; {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil: // ECHILD: nothing is left
			p.output.Wait()
			cgroupNow.counters(&exited)
			exited.CPUUS -= p.cpuUsed
			return exited
		case pid == p.pid:
			ended = true
			exited.WallUS = time.Since(p.begun).Microseconds()
			if status.Signaled() {
				exited.Signal = int(status.Signal())
			} else {
				exited.ExitCode = status.ExitStatus()
			}
			p.watch.finish(&exited)
		}
		if ended {
			// Again at each step: a fork bomb may have forked meanwhile.
			unix.Kill(-1, unix.SIGKILL)
		}
	}
}
