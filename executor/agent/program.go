//go:build linux

package agent

import (
	"encoding/json"
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
	pid     int
	started time.Time
	output  sync.WaitGroup // the copies of stdout and stderr
	watch   *watch
}

// launch starts the program with its streams connected.
func launch(start wire.Start, s streams) (*program, error) {
	if len(start.Argv) == 0 {
		return nil, fmt.Errorf("start without a program")
	}
	if err := os.MkdirAll(filepath.Join(wire.Workspace, outFolder), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for artifacts: %w", err)
	}
	p := &program{}
	var child, ours [3]*os.File
	for i := range child {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		if child[i], ours[i] = w, r; i == 0 {
			child[i], ours[i] = r, w
		}
		defer child[i].Close()
	}
	// The step that becomes the program closes its end by doing so.
	started, starting, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer starting.Close()
	files := child[:]
	var job *os.File
	if start.Driver != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		defer r.Close()
		files, job = append(files, r), w
	}

	// The limit counts every thread of this user, so the agent's own are added.
	own := int64(ownThreads())
	argv := append([]string{
		wire.AgentPath, "exec", strconv.FormatInt(start.PIDs+own, 10), strconv.Itoa(len(files)),
	}, start.Argv...)
	p.started = time.Now()
	p.watch = newWatch(start.PIDs, own)
	if p.pid, err = spawn(argv, start.Env, append(files, starting)); err != nil {
		started.Close()
		return nil, err
	}
	go p.watch.run(started)

	if job != nil {
		go func() {
			defer job.Close()
			json.NewEncoder(job).Encode(start.Driver) // a driver that has died reads nothing
		}()
	}
	go func() {
		defer ours[0].Close()
		io.Copy(ours[0], s.stdin)
	}()
	for i, stream := range []io.WriteCloser{s.stdout, s.stderr} {
		p.output.Go(func() {
			defer stream.Close()
			io.Copy(stream, ours[i+1])
		})
	}
	return p, nil
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
			return exited
		case pid == p.pid:
			ended = true
			exited.WallUS = time.Since(p.started).Microseconds()
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
