package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// FrameType says what a frame on the control stream holds.
type FrameType byte

// The frames. The numbers are part of the protocol.
const (
	FrameHello    FrameType = 1  // agent: Hello as JSON
	FrameFile     FrameType = 2  // gateway: a file for the workspace
	FrameStart    FrameType = 3  // gateway: Start as JSON
	FrameStarted  FrameType = 4  // agent: empty, the program runs
	FrameSignal   FrameType = 5  // gateway: a signal for the program, see SignalPayload
	FrameResult   FrameType = 6  // agent: the program's result, as it wrote it
	FrameArtifact FrameType = 7  // agent: a file the program left
	FrameExited   FrameType = 8  // agent: Exited as JSON
	FramePark     FrameType = 9  // gateway: Process as JSON, a driver to be started ahead of its job
	FrameParked   FrameType = 10 // agent: empty, the driver waits for its job
	FrameSync     FrameType = 11 // gateway: empty, asks what became of the files before it
	FrameFetch    FrameType = 12 // gateway: Fetch as JSON
	FrameContent  FrameType = 13 // agent: the file that was fetched
	FrameDone     FrameType = 14 // agent: Done as JSON
	FrameCleaned  FrameType = 15 // agent: Cleaned as JSON
	// gateway: the certificate, as PEM, of the authority that the sandbox's programs are to trust
	FrameAuthority FrameType = 16
)

// headerSize is the size of a frame's header: type, then the length of the
// payload as 32 bits, big endian.
const headerSize = 5

// maxPathLength bounds the path in a file frame, in bytes (PATH_MAX of Linux).
const maxPathLength = 4096

// Frame is one message on the control stream.
type Frame struct {
	Type    FrameType
	Payload []byte
}

// Write writes one frame in a single call to w.
func Write(w io.Writer, typ FrameType, payload []byte) error {
	frame := make([]byte, headerSize, headerSize+len(payload))
	frame[0] = byte(typ)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	if _, err := w.Write(append(frame, payload...)); err != nil {
		return fmt.Errorf("write frame %d: %w", typ, err)
	}
	return nil
}

// WriteJSON writes v as the payload of one frame.
func WriteJSON(w io.Writer, typ FrameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %d: %w", typ, err)
	}
	return Write(w, typ, payload)
}

// WriteFrom writes one frame whose payload is size bytes of content, without
// holding them in memory. An error in the middle breaks the stream: the length
// was promised.
func WriteFrom(w io.Writer, typ FrameType, size int64, content io.Reader) error {
	return writeFrom(w, typ, nil, size, content)
}

// WriteFile writes a FrameFile, FrameArtifact or FrameContent, as WriteFrom does. The payload
// is the length of the path as 16 bits, the path, and the content.
func WriteFile(w io.Writer, typ FrameType, path string, size int64, content io.Reader) error {
	if len(path) > maxPathLength {
		return fmt.Errorf("write frame %d: path of %d bytes, at most %d", typ, len(path), maxPathLength)
	}
	return writeFrom(w, typ, append(binary.BigEndian.AppendUint16(nil, uint16(len(path))), path...), size, content)
}

// writeFrom writes one frame whose payload is prefix and size bytes of content.
func writeFrom(w io.Writer, typ FrameType, prefix []byte, size int64, content io.Reader) error {
	length := int64(len(prefix)) + size
	if size < 0 || length > math.MaxUint32 {
		return fmt.Errorf("write frame %d: content of %d bytes", typ, size)
	}
	head := make([]byte, headerSize, headerSize+len(prefix))
	head[0] = byte(typ)
	binary.BigEndian.PutUint32(head[1:], uint32(length))
	if _, err := w.Write(append(head, prefix...)); err != nil {
		return fmt.Errorf("write frame %d: %w", typ, err)
	}
	if _, err := io.CopyN(w, content, size); err != nil {
		return fmt.Errorf("write frame %d: %w", typ, err)
	}
	return nil
}

// signalSize is the size of a FrameSignal's payload.
const signalSize = 5

// SignalPayload is the payload of a FrameSignal: the signal's number, and the
// round it is meant for as 32 bits, big endian.
func SignalPayload(signal byte, round uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{signal}, round)
}

// Signal takes apart the payload of a FrameSignal.
func (f Frame) Signal() (signal byte, round uint32, err error) {
	if len(f.Payload) != signalSize {
		return 0, 0, fmt.Errorf("frame %d of %d bytes, not %d", f.Type, len(f.Payload), signalSize)
	}
	return f.Payload[0], binary.BigEndian.Uint32(f.Payload[1:]), nil
}

// File takes apart the payload of a FrameFile, FrameArtifact or FrameContent. The content
// shares memory with the frame.
func (f Frame) File() (path string, content []byte, err error) {
	if len(f.Payload) < 2 {
		return "", nil, fmt.Errorf("frame %d: no path", f.Type)
	}
	n := int(binary.BigEndian.Uint16(f.Payload))
	if n == 0 || n > maxPathLength || n > len(f.Payload)-2 {
		return "", nil, fmt.Errorf("frame %d: path of %d bytes in a payload of %d", f.Type, n, len(f.Payload))
	}
	path = string(f.Payload[2 : 2+n])
	if !utf8.ValidString(path) {
		return "", nil, fmt.Errorf("frame %d: path is not UTF-8", f.Type)
	}
	return path, f.Payload[2+n:], nil
}

// Decode reads the payload as JSON into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("decode frame %d: %w", f.Type, err)
	}
	return nil
}

// Reader reads frames and refuses those that are larger than they may be.
type Reader struct{ r *bufio.Reader }

// NewReader returns a Reader of r, which nobody else may read from then on.
func NewReader(r io.Reader) *Reader { return &Reader{bufio.NewReaderSize(r, readerBuffer)} }

// readerBuffer is what is held of what comes after a frame, in bytes: little, since every
// sandbox has one. Of a larger frame the rest is read past it.
const readerBuffer = 512

// Next reads one frame. may holds the largest payload, in bytes, of every type
// that may come now. It returns io.EOF at a clean end, and never allocates more
// than the frame's type allows.
func (r *Reader) Next(may map[FrameType]int) (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return Frame{}, err // io.EOF between frames, io.ErrUnexpectedEOF within one
	}
	typ, length := FrameType(header[0]), binary.BigEndian.Uint32(header[1:])
	max, ok := may[typ]
	if !ok {
		return Frame{}, fmt.Errorf("frame %d may not come here", typ)
	}
	if uint64(length) > uint64(max) {
		return Frame{}, fmt.Errorf("frame %d of %d bytes, at most %d", typ, length, max)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r.r, payload); err != nil {
		return Frame{}, fmt.Errorf("frame %d: %w", typ, io.ErrUnexpectedEOF)
	}
	return Frame{Type: typ, Payload: payload}, nil
}
