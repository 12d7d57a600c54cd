package executor

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// output takes in stdout and stderr, which share one budget.
type output struct {
	stdout, stderr stream
	exceeded       chan struct{} // closed when more came than was granted

	mu   sync.Mutex
	left int64 // bytes
	open int   // copies that have not ended
	done chan struct{}
}

// stream is one of the program's output streams.
type stream struct {
	kept      bytes.Buffer
	truncated bool
}

func newOutput(budget int64) *output {
	return &output{exceeded: make(chan struct{}), left: budget, open: 2, done: make(chan struct{})}
}

// copy reads until the stream ends. What is past the budget is read and thrown
// away, so that the agent can finish.
func (o *output) copy(s *stream, from io.ReadCloser) {
	defer o.ended()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		o.add(s, buffer[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) add(s *stream, p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fits := min(int64(len(p)), o.left)
	s.kept.Write(p[:fits])
	o.left -= fits
	if fits < int64(len(p)) {
		s.truncated = true
		select {
		case <-o.exceeded:
		default:
			close(o.exceeded)
		}
	}
}

func (o *output) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open--; o.open == 0 {
		close(o.done)
	}
}

// wait returns when both streams have ended, or after the timeout.
func (o *output) wait(timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-o.done:
	case <-timer.C:
	}
}

// take returns what was kept of a stream so far.
func (o *output) take(s *stream) (kept []byte, truncated bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(s.kept.Bytes()), s.truncated
}
