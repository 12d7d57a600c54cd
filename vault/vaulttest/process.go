package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the wait for a server, which a busy machine may take
	// many seconds to start.
	startTimeout = 3 * time.Minute
	// stopTimeout bounds the wait for one to end before it is killed.
	stopTimeout = 30 * time.Second
	// pollEvery is how often a server is asked whether it is as expected.
	pollEvery = 10 * time.Millisecond
)

// process is a server that runs.
type process struct {
	cmd    *exec.Cmd
	output output
	ended  chan struct{} // closed once it has ended and its output was read
}

// launch starts cmd, which gets the signal onDeath when this process ends.
func launch(cmd *exec.Cmd, onDeath syscall.Signal) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = onDeath
	// A terminal's interrupt ends the test, which then ends its servers.
	cmd.SysProcAttr.Setpgid = true
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread that forked ends: this
		// one stays for as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) error {
	return p.cmd.Process.Signal(s)
}

// end asks with the signal, kills what does not end for it, and waits.
func (p *process) end(s syscall.Signal) {
	_ = p.signal(s) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.signal(syscall.SIGKILL)
		<-p.ended
	}
}

// await polls until ready returns nil. It gives up early if the server ends.
func (p *process) await(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return fmt.Errorf("the server ended: %v: %s", p.cmd.ProcessState, p.output.text())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no answer within %v: %w", startTimeout, err), errors.New(p.output.text()))
		}
	}
}

// paused reports whether every thread has stopped, which takes a moment after
// the signal: proc(5), "stat".
func (p *process) paused(context.Context) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// The state follows the name in parentheses, which may hold any others.
		_, state, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
		if !bytes.HasPrefix(state, []byte("T")) {
			return fmt.Errorf("%s: it runs: %s", path, text)
		}
	}
	return nil
}

// output keeps what a server says.
type output struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said.Write(b)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said.String()
}

// port is one of the loopback device that is its owner's until it is released, also
// while no server listens on it.
type port struct {
	number int
	socket *os.File
}

// reservePort binds a socket that never listens. With SO_REUSEADDR, which servers set
// too, one of them may listen on the port all the same, and nobody is given the port
// who asks for any: socket(7), ip(7).
func reservePort() (port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return port{}, fmt.Errorf("reserve a port: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "port")
	err = errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, nameErr := syscall.Getsockname(fd)
	address, ok := bound.(*syscall.SockaddrInet4)
	if err = errors.Join(err, nameErr); err != nil || !ok {
		return port{}, errors.Join(fmt.Errorf("reserve a port: %w", err), socket.Close())
	}
	return port{address.Port, socket}, nil
}

func (p port) release() { _ = p.socket.Close() }
