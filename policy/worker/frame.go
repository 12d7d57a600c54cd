package worker

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame bounds one message in either direction, in bytes: a bundle of the
// largest size, encoded.
const MaxFrame = 128 << 20

// WriteFrame writes one message: its length in four bytes, big-endian, and it.
func WriteFrame(w io.Writer, message []byte) error {
	if len(message) > MaxFrame {
		return fmt.Errorf("a message of %d bytes is more than the %d of a frame", len(message), MaxFrame)
	}
	frame := make([]byte, 4, 4+len(message))
	binary.BigEndian.PutUint32(frame, uint32(len(message)))
	_, err := w.Write(append(frame, message...))
	return err
}

// readStep is how much memory is taken on the word of a length alone.
const readStep = 1 << 20

// ReadFrame reads one message of at most max bytes. It is io.EOF where there is
// none, and io.ErrUnexpectedEOF where it ends early.
func ReadFrame(r io.Reader, max int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint32(head[:]))
	if length > max {
		return nil, fmt.Errorf("a message of %d bytes is announced: at most %d are taken", length, max)
	}
	var message []byte
	for len(message) < length {
		at := len(message)
		message = append(message, make([]byte, min(readStep, length-at))...)
		if _, err := io.ReadFull(r, message[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return message, nil
}
