package executor

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/pkg/stdcopy"
)

// attachment is the container's attached stream as one connection: standard
// input one way, standard output the other.
type attachment struct {
	types.HijackedResponse
	out *demultiplexer
}

// newAttachment takes the engine's multiplexed stream apart: the agent's
// standard output is the wire, its standard error goes to words.
func newAttachment(attached types.HijackedResponse, words io.Writer) *attachment {
	return &attachment{attached, newDemultiplexer(attached.Reader, words)}
}

func (a *attachment) Read(p []byte) (int, error)  { return a.out.Read(p) }
func (a *attachment) Write(p []byte) (int, error) { return a.Conn.Write(p) }
func (a *attachment) Close() error                { return a.Conn.Close() }

// demultiplexer reads the standard output out of the engine's stream, in which
// each piece has a header: one byte that says which stream it is of, three
// zeros, and its length as 32 bits
// (docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach).
// It holds no more than one buffer, and reads no further than it is asked to.
type demultiplexer struct {
	from  *bufio.Reader
	words io.Writer
	left  int64 // bytes of standard output still to come in this piece
}

// engineBuffer is as much of the engine's stream as is held, in bytes: every sandbox has
// one. A larger piece is read past it.
const engineBuffer = 4 << 10

func newDemultiplexer(from io.Reader, words io.Writer) *demultiplexer {
	return &demultiplexer{from: bufio.NewReaderSize(from, engineBuffer), words: words}
}

// Read implements io.Reader. The stream's end within a piece reads as
// io.ErrUnexpectedEOF.
func (d *demultiplexer) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for d.left == 0 {
		if err := d.next(); err != nil {
			return 0, err
		}
	}
	n, err := d.from.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, cut(err)
}

// next reads the next header, and the piece too where it is of another stream.
func (d *demultiplexer) next() error {
	var header [8]byte
	if _, err := io.ReadFull(d.from, header[:]); err != nil {
		return err // io.EOF between pieces, io.ErrUnexpectedEOF within a header
	}
	length := int64(binary.BigEndian.Uint32(header[4:]))
	switch stdcopy.StdType(header[0]) {
	case stdcopy.Stdin, stdcopy.Stdout:
		d.left = length
		return nil
	case stdcopy.Stderr:
		_, err := io.CopyN(d.words, d.from, length)
		return cut(err)
	}
	return fmt.Errorf("the engine's stream has a piece of kind %d", header[0])
}

// cut is the error of a stream that ended in the middle.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
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
