package executor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/docker/docker/pkg/stdcopy"
)

// piece is a piece of the engine's stream, as the engine writes it.
func piece(kind byte, text string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, uint32(len(text)))) + text
}

// Whatever pieces the stream comes in, both outputs are what the engine's own
// library makes of them.
func TestDemultiplexer(t *testing.T) {
	const out, err = byte(stdcopy.Stdout), byte(stdcopy.Stderr)
	long := strings.Repeat("0123456789", 10_000)
	whole := piece(out, "one") + piece(err, "words") + piece(out, "") + piece(err, "") + piece(0, "two") + piece(out, long) + piece(err, long) + piece(out, "three")
	cuts := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "with the end": iotest.DataErrReader,
	}
	for name, cut := range cuts {
		for what, c := range map[string]struct {
			text string
			err  error // nil: the stream ends well
		}{
			"nothing":                   {"", nil},
			"all":                       {whole, nil},
			"cut within a header":       {whole + "\x01\x00", io.ErrUnexpectedEOF},
			"cut before a piece":        {whole + piece(out, "x")[:8], io.ErrUnexpectedEOF},
			"cut within stderr":         {whole + piece(err, "xyz")[:9], io.ErrUnexpectedEOF},
			"cut before stderr":         {whole + piece(err, "xyz")[:8], io.ErrUnexpectedEOF},
			"the engine's own error":    {whole + piece(byte(stdcopy.Systemerr), "broken"), errKind},
			"a kind that there is not":  {whole + piece(9, "x"), errKind},
			"a piece of four gibibytes": {whole + "\x02\x00\x00\x00\xff\xff\xff\xff", io.ErrUnexpectedEOF},
		} {
			var words, wantWords, want bytes.Buffer
			got, err := io.ReadAll(newDemultiplexer(cut(strings.NewReader(c.text)), &words))
			if c.err != err && (c.err != errKind || err == nil || err == io.ErrUnexpectedEOF) {
				t.Errorf("%s in %s: %v", what, name, err)
			}
			known, _, _ := strings.Cut(c.text, "\x02\x00\x00\x00\xff\xff\xff\xff") // for which the library would take the memory
			stdcopy.StdCopy(&want, &wantWords, strings.NewReader(known))
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%s in %s: %d bytes of standard output, want %d", what, name, len(got), want.Len())
			}
			if !bytes.HasPrefix(words.Bytes(), wantWords.Bytes()) {
				t.Errorf("%s in %s: %d bytes of standard error, want %d", what, name, words.Len(), wantWords.Len())
			}
		}
	}
}

var errKind = errors.New("a piece of another kind")

// The agent's words are kept up to their bound, whatever it says.
func TestDemultiplexerKeepsFewWords(t *testing.T) {
	var kept words
	text := strings.Repeat(piece(byte(stdcopy.Stderr), strings.Repeat("x", 1000)), 100) + piece(byte(stdcopy.Stdout), "hello")
	got, err := io.ReadAll(newDemultiplexer(strings.NewReader(text), &kept))
	if err != nil || string(got) != "hello" || len(kept.String()) != maxWords {
		t.Errorf("%q, %d bytes of words, %v", got, len(kept.String()), err)
	}
}

// FuzzDemultiplexer reads every stream that ends well as the engine's own library
// does, and makes no more of any other than there is in it.
func FuzzDemultiplexer(f *testing.F) {
	f.Add([]byte(piece(1, "out") + piece(2, "err") + piece(1, "more")))
	f.Add([]byte(piece(3, "broken")))
	f.Add([]byte(piece(1, "cut")[:9]))
	f.Fuzz(func(t *testing.T, text []byte) {
		var words bytes.Buffer
		got, err := io.ReadAll(newDemultiplexer(bytes.NewReader(text), &words))
		if len(got)+words.Len() > len(text) {
			t.Fatalf("%d bytes became %d and %d", len(text), len(got), words.Len())
		}
		if err != nil {
			return // the library takes memory for the piece that is missing, whatever its length
		}
		var want, wantWords bytes.Buffer
		_, err = stdcopy.StdCopy(&want, &wantWords, bytes.NewReader(text))
		if err != nil || !bytes.Equal(got, want.Bytes()) || !bytes.Equal(words.Bytes(), wantWords.Bytes()) {
			t.Errorf("%q, %q; want %q, %q, %v", got, words.Bytes(), want.Bytes(), wantWords.Bytes(), err)
		}
	})
}
