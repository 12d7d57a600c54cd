package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"
)

func muxFrame(typ byte, flags uint16, length uint32, payload string) string {
	b := binary.BigEndian.AppendUint16([]byte{0, typ}, flags)
	b = binary.BigEndian.AppendUint32(b, 1)
	return string(binary.BigEndian.AppendUint32(b, length)) + payload
}

type readOnly struct{ io.Reader }

func (readOnly) Write(p []byte) (int, error) { return len(p), nil }
func (readOnly) Close() error                { return nil }

// Whatever pieces they come in, frames that a sandbox may send pass unchanged,
// and others end the stream.
func TestGuard(t *testing.T) {
	const (
		ping = 2
		ack  = 2
	)
	// The payload looks like a ping, and is none.
	hidden := muxFrame(ping, muxSYN, 0, "")
	fine := muxFrame(muxData, ack, 3, "abc") + muxFrame(muxWindowUpdate, ack, 99, "") + muxFrame(muxData, 0, uint32(len(hidden)), hidden) + muxFrame(muxData, 4, 0, "") + muxFrame(muxGoAway, 0, 0, "")
	pieces := map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader}
	for name, cut := range pieces {
		got, err := io.ReadAll(&guard{admission: &admission{}, ReadWriteCloser: readOnly{cut(bytes.NewReader([]byte(fine)))}})
		if err != nil || string(got) != fine {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(fine), err)
		}
		for what, bad := range map[string]string{
			"a ping": hidden, "an answer to a ping": muxFrame(ping, ack, 0, ""), "a new stream": muxFrame(muxData, muxSYN, 0, ""),
			"a new stream by window": muxFrame(muxWindowUpdate, muxSYN|ack, 0, ""), "a type of the future": muxFrame(4, 0, 0, ""), "another version": "\x01" + fine[1:],
		} {
			if _, err := io.ReadAll(&guard{admission: &admission{}, ReadWriteCloser: readOnly{cut(bytes.NewReader([]byte(fine + bad)))}}); err == nil {
				t.Errorf("%s in %s comes through", what, name)
			}
		}
	}
}

// muxOpen is a stream that a sandbox opens.
func muxOpen(typ byte, id uint32) string {
	frame := []byte(muxFrame(typ, muxSYN, 0, ""))
	binary.BigEndian.PutUint32(frame[4:], id)
	return string(frame)
}

// A sandbox opens streams only while it may, each as yamux does, and few that
// were not accepted.
func TestGuardAdmits(t *testing.T) {
	many := ""
	for n := range uint32(acceptBacklog + 1) { // of which one is being accepted
		many += muxOpen(muxWindowUpdate, 2*n+2)
	}
	for name, c := range map[string]struct {
		may  bool
		in   string
		want bool
	}{
		"nothing where it may not":     {false, muxOpen(muxWindowUpdate, 2), false},
		"one where it may":             {true, muxOpen(muxWindowUpdate, 2), true},
		"as many as are accepted late": {true, many, true},
		"one more":                     {true, many + muxOpen(muxWindowUpdate, 99*2), false},
		"with data":                    {true, muxOpen(muxData, 2), false},
		"under the gateway's number":   {true, muxOpen(muxWindowUpdate, 3), false},
		"under no number":              {true, muxOpen(muxWindowUpdate, 0), false},
		"by a ping":                    {true, muxOpen(2, 2), false},
	} {
		g := &guard{admission: &admission{may: c.may}, ReadWriteCloser: readOnly{bytes.NewReader([]byte(c.in))}}
		if _, err := io.ReadAll(g); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
