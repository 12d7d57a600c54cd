package scrub

import (
	"errors"
	"io"
)

// Writer passes on what is written to it, without the secrets of a Set. It holds
// back no more than what may become a secret: the bytes from the first one on
// that has begun like one and may still go on like one, fewer than the longest form
// of a secret has. It is for one goroutine at a time.
//
// Ordinary text may end in a byte or two with which a secret begins. Whoever
// serves somebody who waits calls Flush after a pause, if Held says that too
// little of a secret to matter would show.
type Writer struct {
	to     io.Writer
	kept   []byte // what is held back, and what a live attempt began with before a Flush
	stream stream
	buffer []byte // of what is written
	err    error  // what ended it
}

// NewWriter returns a Writer to w. It leaves out the secrets of set, which may be nil.
func NewWriter(w io.Writer, set *Set) *Writer {
	return &Writer{to: w, stream: stream{m: set.matcher()}}
}

// errClosed is what a closed Writer answers.
var errClosed = errors.New("scrub: write to a closed Writer")

// Write implements io.Writer. After an error of the writer below, which it returns,
// nothing more is written. It passes p itself on, if it need not hold anything back.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	data := p
	if len(w.kept) > 0 {
		w.kept = append(w.kept, p...)
		data = w.kept
	}
	w.stream.scan(data, len(data)-len(p))
	if err := w.release(data, w.stream.settled(data)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Use changes the Set, from the next byte on and for all that is held back. A set
// made by With of the one before keeps what that one had begun to see. The error is that
// of writing what need not be held back any longer.
func (w *Writer) Use(set *Set) error {
	if w.err != nil {
		return w.err
	}
	before := w.stream
	w.stream = stream{m: set.matcher()}
	w.stream.scan(w.kept, 0)
	w.stream.out, w.stream.covered = before.out, before.covered
	w.stream.masks = union(before.masks, w.stream.masks)
	return w.release(w.kept, w.stream.settled(w.kept))
}

// Held returns how many bytes are held back.
func (w *Writer) Held() int { return len(w.kept) - w.stream.out }

// Flush writes what is held back. If that was the beginning of a secret, its rest
// will still be left out.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	return w.release(w.kept, len(w.kept))
}

// Close writes what is held back and ends the Writer; it does not close the
// writer below. Closing again does nothing.
func (w *Writer) Close() error {
	if errors.Is(w.err, errClosed) {
		return nil
	}
	err := w.Flush()
	w.kept, w.buffer, w.stream, w.err = nil, nil, stream{}, errClosed
	return err
}

// release writes data up to a position and keeps what is still needed.
func (w *Writer) release(data []byte, upto int) error {
	if text := w.visible(data, upto); len(text) > 0 {
		n, err := w.to.Write(text)
		if err == nil && n < len(text) {
			err = io.ErrShortWrite
		}
		if err != nil {
			w.kept, w.buffer, w.stream, w.err = nil, nil, stream{}, err
			return err
		}
	}
	from := min(w.stream.settled(data), upto)
	if from > 0 || len(w.kept) == 0 {
		w.kept = append(w.kept[:0], data[from:]...)
	}
	w.stream.forget(from)
	return nil
}

// visible returns what is to be seen of data up to a position, without
// copying it if nothing is masked.
func (w *Writer) visible(data []byte, upto int) []byte {
	out := w.stream.out
	if !w.stream.plain(upto) {
		w.buffer = w.stream.render(w.buffer[:0], data, upto)
		return w.buffer
	}
	if upto <= out {
		return nil
	}
	w.stream.out, w.stream.covered = upto, false
	return data[out:upto]
}
