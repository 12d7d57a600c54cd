package executor

import (
	"io"
	"sync"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/pkg/stdcopy"
)

// attachment is the container's attached stream as one connection: standard
// input one way, standard output the other.
type attachment struct {
	types.HijackedResponse
	out *io.PipeReader
}

// newAttachment takes the engine's multiplexed stream apart: the agent's
// standard output is the wire, its standard error goes to words.
func newAttachment(attached types.HijackedResponse, words io.Writer) *attachment {
	r, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, words, attached.Reader)
		w.CloseWithError(err) // a nil error reads as io.EOF
	}()
	return &attachment{attached, r}
}

func (a *attachment) Read(p []byte) (int, error)  { return a.out.Read(p) }
func (a *attachment) Write(p []byte) (int, error) { return a.Conn.Write(p) }

func (a *attachment) Close() error {
	a.out.Close()
	return a.Conn.Close()
}

// words keeps the first few KiB of what the agent says when it fails. It is for
// the log and never reaches a caller.
type words struct {
	mu   sync.Mutex
	text []byte
}

const maxWords = 4 << 10

// Write implements io.Writer and never fails.
func (t *words) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), maxWords-len(t.text))]...)
	return len(p), nil
}

// String returns what was kept.
func (t *words) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
