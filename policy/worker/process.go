package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"
)

// Process is one process of a Pool, in the hands of one job.
type Process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	said   *tail // on its standard error
	broken bool  // a message was not answered, so that the next one could get its answer

	// Known is for the pool's user: what this process has been told. It is nil in
	// a new process.
	Known any
	// lastKey is the key it last worked for.
	lastKey string
}

// startProcess starts the command with an empty environment but for env, and
// nothing open but the three standard files.
func startProcess(command, env []string) (*Process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = env
	cmd.Dir = "/"
	said := &tail{}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	return &Process{cmd: cmd, in: in, out: bufio.NewReader(out), said: said}, nil
}

// Exchange sends a message and returns the answer, which has at most max bytes.
// A process that has not answered when ctx ends is killed; one that gave no
// whole answer is not used again.
func (p *Process) Exchange(ctx context.Context, message []byte, max int) ([]byte, error) {
	if p.broken {
		return nil, fmt.Errorf("the worker is broken")
	}
	p.broken = true // until it has answered
	stop := context.AfterFunc(ctx, p.kill)
	answer, err := p.exchange(message, max)
	if !stop() {
		return nil, fmt.Errorf("the worker was killed: %w", context.Cause(ctx))
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("the worker ended or gave no answer: %w%s", err, p.said)
	}
	p.broken = false
	return answer, nil
}

// Broken reports whether it is not used again.
func (p *Process) Broken() bool { return p.broken }

func (p *Process) exchange(message []byte, max int) ([]byte, error) {
	if err := WriteFrame(p.in, message); err != nil {
		return nil, err
	}
	return ReadFrame(p.out, max)
}

// kill may be called at any time, and more than once.
func (p *Process) kill() { _ = p.cmd.Process.Kill() }

// end kills the process and waits until it is gone.
func (p *Process) end() {
	p.kill()
	_ = p.in.Close()
	_ = p.cmd.Wait() // that it was killed is no news
}

// tail keeps the first of what a process says as it dies.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// maxSaid bounds what is kept of a process's standard error, in bytes.
const maxSaid = 1 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), maxSaid-len(t.text))]...)
	return len(p), nil
}

// String is what was said, as the end of a message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return fmt.Sprintf(": %q", t.text)
}
