package executor

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// output takes in stdout and stderr, which share one budget.
type output struct {
	stdout, stderr stream
	feed           *feed
	exceeded       chan struct{} // closed when more came than was granted

	mu   sync.Mutex
	left int64 // bytes
	seen int64 // bytes
	open int   // copies that have not ended
	done chan struct{}

	telling int  // copies that wait for the listener
	stuck   bool // streams stayed open though nobody waited for a listener
}

// stream is one of the program's output streams.
type stream struct {
	event     execution.EventType
	kept      bytes.Buffer
	truncated bool
}

func newOutput(budget int64, feed *feed) *output {
	return &output{
		stdout: stream{event: execution.EventStdout}, stderr: stream{event: execution.EventStderr}, feed: feed,
		exceeded: make(chan struct{}), left: budget, open: 2, done: make(chan struct{}),
	}
}

// How much of a stream is read at once, in bytes: little from a program that says
// little, of which there may be many at once.
const (
	smallOutput = 1 << 10
	largeOutput = 32 << 10
)

// copy reads until the stream ends. What is past the budget is read and thrown
// away, so that the agent can finish.
func (o *output) copy(s *stream, from io.ReadCloser) {
	defer o.ended()
	defer from.Close()
	buffer := make([]byte, smallOutput)
	for {
		n, err := from.Read(buffer)
		if kept := o.add(s, buffer[:n]); len(kept) > 0 {
			o.tell(execution.Event{Type: s.event, Data: bytes.Clone(kept)})
		}
		if err != nil {
			return
		}
		if n == len(buffer) && n < largeOutput {
			buffer = make([]byte, largeOutput)
		}
	}
}

func (o *output) tell(event execution.Event) {
	count := func(n int) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.telling += n
	}
	count(1)
	defer count(-1)
	o.feed.tell(event)
}

// add keeps what fits of p and returns that.
func (o *output) add(s *stream, p []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	fits := min(int64(len(p)), o.left)
	s.kept.Write(p[:fits])
	o.left -= fits
	o.seen += int64(len(p))
	if fits < int64(len(p)) {
		s.truncated = true
		select {
		case <-o.exceeded:
		default:
			close(o.exceeded)
		}
	}
	return p[:fits]
}

func (o *output) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open--; o.open == 0 {
		close(o.done)
	}
}

// wait returns when both streams have ended, or gives up where they have not after
// the timeout and are stuck. Where a listener was told of the start it also gives
// up with cancelled, and what is left may take as long as the listener does: they
// are stuck when twice in a row nothing waits for it.
func (o *output) wait(timeout time.Duration, cancelled <-chan struct{}) {
	tick := time.NewTicker(timeout)
	defer tick.Stop()
	chances := 2
	select {
	case <-o.feed.begun:
	default:
		cancelled, chances = nil, 1
	}
	for left := chances; left > 0; {
		select {
		case <-o.done:
			return
		case <-cancelled:
			return
		case <-tick.C:
			if left--; o.listened() {
				left = chances
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stuck = true
}

// listened reports whether a copy waits for the listener.
func (o *output) listened() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.telling > 0
}

// count returns how many bytes were written to both.
func (o *output) count() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}

// take returns what was kept of a stream so far.
func (o *output) take(s *stream) (kept []byte, truncated bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(s.kept.Bytes()), s.truncated
}
