package worker

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 'o', 'k'})
	f.Add([]byte{255, 255, 255, 255, 0})
	f.Add([]byte{0, 0, 0, 9, 'x'})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			message, err := ReadFrame(r, 1<<16)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := WriteFrame(&again, message); err != nil {
				t.Fatal(err)
			}
			got, err := ReadFrame(&again, 1<<16)
			if err != nil || !bytes.Equal(got, message) {
				t.Fatalf("%q became %q: %v", message, got, err)
			}
		}
	})
}

func TestFramesThatAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		stream []byte
		want   error
	}{
		"nothing":     {nil, io.EOF},
		"half a head": {[]byte{0, 0}, io.ErrUnexpectedEOF},
		"no body":     {[]byte{0, 0, 0, 1}, io.ErrUnexpectedEOF},
		"half a body": {[]byte{0, 0, 0, 2, 'x'}, io.ErrUnexpectedEOF},
	} {
		if _, err := ReadFrame(bytes.NewReader(test.stream), 10); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := ReadFrame(bytes.NewReader([]byte{0, 0, 0, 11}), 10); err == nil {
		t.Error("a message that is too long is taken")
	}
	if err := WriteFrame(io.Discard, make([]byte, MaxFrame+1)); err == nil {
		t.Error("a message that is too long is written")
	}
}
