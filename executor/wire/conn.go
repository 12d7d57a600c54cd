package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// maxChunk is the most that one piece of an outbound connection holds, in bytes.
const maxChunk = 16 << 10

// connBuffer is what a connection holds of the beginning of a piece, in bytes: the rest
// is read past it, and most connections wait most of the time.
const connBuffer = 512

// chunkHeader is the size of a piece's header: its length as 16 bits, big endian.
const chunkHeader = 2

// pieces are the buffers in which pieces are put together: a connection that waits has
// none.
var pieces = sync.Pool{New: func() any { return new([chunkHeader + maxChunk]byte) }}

// errReset is what is read from a connection that the other side has given up.
var errReset = errors.New("the connection was reset")

// past is a deadline that ends a wait.
var past = time.Unix(1, 0)

// Conn is an outbound connection. What it carries is cut into pieces, of which an
// empty one says that no more comes that way; yamux has only one end for both
// ways. A stream that ends before that piece was reset.
//
// One goroutine may read and another write, as of any net.Conn.
type Conn struct {
	stream net.Conn
	flush  func() error

	reading sync.Mutex
	in      *bufio.Reader
	left    int         // of the present piece
	short   bool        // that piece is not one of many
	ended   atomic.Bool // the other side writes no more

	writing sync.Mutex
	rest    []byte // of a piece that a deadline has cut
	shut    bool   // nothing more is written

	closed atomic.Bool // by this side
	over   atomic.Bool // by the other
}

func newConn(stream net.Conn, flush func() error) *Conn {
	return &Conn{stream: stream, flush: flush, in: bufio.NewReaderSize(stream, connBuffer)}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.ended.Load() {
		return 0, io.EOF
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if c.left == 0 && c.short {
		shrink(c.stream)
	}
	for c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, c.why(err)
}

// next reads the header of a piece.
func (c *Conn) next() error {
	head, err := c.in.Peek(chunkHeader)
	if err != nil {
		return c.why(err)
	}
	length := int(binary.BigEndian.Uint16(head))
	c.in.Discard(chunkHeader)
	if length > maxChunk {
		return fmt.Errorf("a piece of %d bytes, at most %d", length, maxChunk)
	}
	if length == 0 {
		c.ended.Store(true)
		go c.awaitReset()
		return io.EOF
	}
	c.left, c.short = length, length < maxChunk
	return nil
}

// shrink frees what yamux keeps of a stream that may be about to wait, if all of it was
// read.
func shrink(stream net.Conn) {
	if s, ok := stream.(*yamux.Stream); ok {
		s.Shrink()
	}
}

// why says what an error of the stream means for the connection.
func (c *Conn) why(err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return net.ErrClosed
	case errors.Is(err, io.EOF):
		c.giveUp()
		return errReset
	}
	return late(err)
}

// late makes the error of a deadline one after which a connection goes on, as those of
// the standard library are: TLS gives up for good after any other, and net/http sets
// a deadline between two requests.
func late(err error) error {
	if errors.Is(err, yamux.ErrTimeout) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// awaitReset ends writing when the other side, which writes no more, reads no
// more either: nobody reads here any longer who would notice.
func (c *Conn) awaitReset() {
	c.reading.Lock()
	defer c.reading.Unlock()
	for !c.closed.Load() {
		c.stream.SetReadDeadline(time.Time{})
		if c.closed.Load() {
			c.stream.SetReadDeadline(past)
		}
		_, err := c.in.Peek(1)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue // a deadline of the reader's that is left
		}
		c.giveUp()
		return
	}
}

// giveUp ends a write that waits, and those to come.
func (c *Conn) giveUp() {
	c.over.Store(true)
	c.stream.SetWriteDeadline(past)
}

// Write implements net.Conn. What it has taken when a deadline passes goes out with
// the next write.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.shut {
		return 0, net.ErrClosed
	}
	written := 0
	for written < len(p) {
		piece := p[written:min(len(p), written+maxChunk)]
		taken, err := c.put(piece)
		if taken {
			written += len(piece)
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// put writes one piece, and reports whether it was taken, even if only in part.
func (c *Conn) put(piece []byte) (taken bool, err error) {
	switch {
	case c.closed.Load():
		return false, net.ErrClosed
	case c.over.Load():
		return false, errReset
	}
	defer func() {
		if err == nil {
			err = c.flush()
		}
		if err = late(err); err != nil && c.over.Load() {
			err = errReset
		}
	}()
	if len(c.rest) > 0 {
		n, err := c.stream.Write(c.rest)
		if c.rest = c.rest[n:]; err != nil {
			return false, err
		}
	}
	buffer := pieces.Get().(*[chunkHeader + maxChunk]byte)
	out := append(binary.BigEndian.AppendUint16(buffer[:0], uint16(len(piece))), piece...)
	n, err := c.stream.Write(out)
	if err == nil {
		pieces.Put(buffer)
	} else if n > 0 {
		c.rest = out[n:]
	}
	return n > 0, err
}

// CloseWrite says that nothing more is written. What is read may go on.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.shut {
		return nil
	}
	taken, err := c.put(nil)
	c.shut = taken
	return err
}

// Close ends the connection both ways once what was written is on its way, for
// which it may wait until the other side takes it, or Abort is called. A write
// that is under way is cut short.
func (c *Conn) Close() error {
	c.stream.SetReadDeadline(past)
	if c.writing.TryLock() {
		if !c.shut {
			c.put(nil)
			c.shut = true
		}
		c.writing.Unlock()
	}
	return c.Abort()
}

// Abort resets the connection: what was written may not arrive.
func (c *Conn) Abort() error {
	first := c.closed.CompareAndSwap(false, true)
	c.stream.SetDeadline(past)
	if !first {
		return nil
	}
	c.stream.Close()
	return c.flush()
}

// Drain throws away what still comes on a connection that this side has closed,
// and reports whether the other side has closed it too; not so where more than
// most bytes come first.
func (c *Conn) Drain(most int64) bool {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.stream.SetReadDeadline(time.Time{})
	_, err := io.CopyN(io.Discard, c.in, most)
	return err != nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.stream.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.stream.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.stream.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() || c.over.Load() {
		return net.ErrClosed
	}
	return c.stream.SetWriteDeadline(t)
}
