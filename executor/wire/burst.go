package wire

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// burstWait is how long a write may be held back for others to join it.
	burstWait = 2 * time.Millisecond
	// burstSize is the most that is held back, in bytes.
	burstSize = 16 << 10
)

// burst joins small writes into few. What one side writes wakes four processes
// on its way to the other, and yamux alone makes two writes of each message.
//
// What is written is held back until flush, until there is more of it than
// burstSize, or for burstWait. A window is passed on at once, with all that came
// before it: the other side may stand still until it has it. No write returns
// while the stream takes nothing and more than burstSize is held, so a side that
// reads nothing still holds back the one that writes.
type burst struct {
	io.ReadWriteCloser

	wait  time.Duration
	timer *time.Timer // flushes; it runs while anything is held

	mu   sync.Mutex
	held []byte // in a buffer of bursts; nil: nothing
	err  error  // the first, of a flush that nobody waited for too
}

// bursts are the buffers of what is held back: a stream that waits has none.
var bursts = sync.Pool{New: func() any { return new([burstSize]byte) }}

func newBurst(conn io.ReadWriteCloser) *burst {
	b := &burst{ReadWriteCloser: conn, wait: burstWait}
	b.timer = time.AfterFunc(time.Hour, func() { b.flush() })
	b.timer.Stop()
	return b
}

// Write implements io.Writer. An error may be that of an earlier write.
func (b *burst) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) == 0 {
		b.timer.Reset(b.wait)
	}
	if len(b.held)+len(p) <= burstSize {
		if b.held == nil {
			b.held = bursts.Get().(*[burstSize]byte)[:0]
		}
		b.held = append(b.held, p...)
		if !opensWindow(p) {
			return len(p), b.err
		}
		return len(p), b.send()
	}
	if b.send(); b.err == nil {
		_, b.err = b.ReadWriteCloser.Write(p)
	}
	return len(p), b.err
}

// flush passes on what is held.
func (b *burst) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.send()
}

func (b *burst) send() error {
	b.timer.Stop()
	if len(b.held) > 0 && b.err == nil {
		_, b.err = b.ReadWriteCloser.Write(b.held)
	}
	if b.held != nil {
		bursts.Put((*[burstSize]byte)(b.held[:burstSize]))
		b.held = nil
	}
	return b.err
}

// Close closes the stream, which ends a write that waits. What is held is lost.
func (b *burst) Close() error {
	b.timer.Stop()
	return b.ReadWriteCloser.Close()
}

// opensWindow reports whether p is the header of a message of yamux that lets
// the other side write more. A header comes in a write of its own.
func opensWindow(p []byte) bool {
	return len(p) == muxHeaderSize && p[0] == muxVersion && p[1] == muxWindowUpdate && binary.BigEndian.Uint32(p[8:]) > 0
}

// prompt is the control stream. A frame that the other side waits for is passed
// on at once, with everything that was written before it on any stream; one that
// another follows soon is not.
type prompt struct {
	net.Conn
	flush func() error

	mu   sync.Mutex
	left int64 // bytes of a frame that was begun, still to come
	soon bool  // another frame follows that one
}

// Read implements io.Reader.
func (c *prompt) Read(p []byte) (int, error) {
	shrink(c.Conn)
	return c.Conn.Read(p)
}

// Write implements io.Writer. It is given frames as this package writes them: a
// header is not cut in two.
func (c *prompt) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(p)
	n, err := c.Conn.Write(p)
	if err != nil || c.soon || c.left > 0 {
		return n, err
	}
	return n, c.flush()
}

func (c *prompt) look(p []byte) {
	if c.left == 0 && len(p) >= headerSize {
		c.soon = followed(FrameType(p[0]))
		c.left = headerSize + int64(binary.BigEndian.Uint32(p[1:]))
	}
	c.left = max(0, c.left-int64(len(p)))
}

// followed reports whether another frame comes soon after one of this type: the
// end of a short program after its start, and after its result; a driver to park, or
// a program, after the certificate that is for it.
func followed(typ FrameType) bool {
	switch typ {
	case FrameFile, FrameStarted, FrameResult, FrameArtifact, FrameAuthority:
		return true
	}
	return false
}
