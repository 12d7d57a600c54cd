package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stream counts what is written to it.
type stream struct {
	mu     sync.Mutex
	writes []string
	err    error
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, string(p))
	return len(p), s.err
}

func (s *stream) Read([]byte) (int, error) { return 0, io.EOF }
func (s *stream) Close() error             { return nil }

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.writes, "|")
}

func TestBurst(t *testing.T) {
	window := muxFrame(muxWindowUpdate, 0, 1, "")
	end := muxFrame(muxWindowUpdate, 4, 0, "")
	whole := strings.Repeat("x", burstSize)
	for name, c := range map[string]struct {
		writes []string
		want   string // of it, before anything is flushed
	}{
		"few bytes wait":                  {[]string{"a", "b"}, ""},
		"the end of a stream waits":       {[]string{end}, ""},
		"a window does not":               {[]string{"a", window, "b"}, "a" + window},
		"as much as is held waits":        {[]string{whole}, ""},
		"more goes through in order":      {[]string{whole[1:], "ab"}, whole[1:] + "|ab"},
		"much goes through by itself":     {[]string{whole + "a", "b"}, whole + "a"},
		"something waits again after it":  {[]string{whole, "a", "b", "c"}, whole + "|a"},
		"what looks like a window is one": {[]string{"\x00\x01", window}, "\x00\x01" + window},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stream{}
				b := newBurst(s)
				for _, text := range c.writes {
					if n, err := io.WriteString(b, text); n != len(text) || err != nil {
						t.Fatalf("%d of %d bytes, %v", n, len(text), err)
					}
					if len(b.held) > burstSize {
						t.Errorf("%d bytes are held", len(b.held))
					}
				}
				if s.String() != c.want {
					t.Errorf("%d bytes came at once, want %d", len(s.String()), len(c.want))
				}
				time.Sleep(burstWait)
				synctest.Wait()
				if got := strings.Join(s.writes, ""); got != strings.Join(c.writes, "") {
					t.Errorf("%d bytes came after %s", len(got), burstWait)
				}
			})
		})
	}
}

// A side that reads nothing holds back the one that writes, which holds no more
// than a burst, and closing frees it.
func TestBurstHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		b := newBurst(near)
		taken, failed := 0, make(chan error, 1)
		go func() {
			for {
				n, err := b.Write(make([]byte, 1000))
				if err != nil {
					failed <- err
					return
				}
				taken += n
			}
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if taken > burstSize {
			t.Errorf("%d bytes were taken", taken)
		}
		b.Close()
		if err := <-failed; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v", err)
		}
		synctest.Wait() // the flush that waited has ended too, or the test would not
	})
}

func TestBurstRemembersItsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{err: io.ErrClosedPipe}
		b := newBurst(s)
		io.WriteString(b, "a")
		time.Sleep(burstWait)
		synctest.Wait()
		for range 2 {
			if _, err := io.WriteString(b, "b"); err != io.ErrClosedPipe {
				t.Errorf("%v", err)
			}
		}
		if b.flush(); s.String() != "a" {
			t.Errorf("%q came after the error", s)
		}
	})
}

// Frames that the other side waits for are passed on, and others only with them.
func TestPrompt(t *testing.T) {
	flushes := 0
	near, far := net.Pipe()
	defer near.Close()
	go io.Copy(io.Discard, far)
	control := &prompt{Conn: near, flush: func() error { flushes++; return nil }}
	exits := string([]byte{byte(FrameExited), 0, 0, 0, 0}) // content that looks like a frame
	file := func(typ FrameType) func() error {
		return func() error { return WriteFile(control, typ, "a", int64(len(exits)), strings.NewReader(exits)) }
	}
	for name, c := range map[string]struct {
		write func() error
		want  int
	}{
		"hello":                {func() error { return WriteJSON(control, FrameHello, Hello{}) }, 1},
		"start":                {func() error { return WriteJSON(control, FrameStart, Start{}) }, 1},
		"signal":               {func() error { return Write(control, FrameSignal, []byte{9}) }, 1},
		"exited":               {func() error { return WriteJSON(control, FrameExited, Exited{}) }, 1},
		"a frame of any other": {func() error { return Write(control, 99, []byte("x")) }, 1},
		"started":              {func() error { return Write(control, FrameStarted, nil) }, 0},
		"file":                 {file(FrameFile), 0},
		"artifact":             {file(FrameArtifact), 0},
		"result": {func() error {
			return WriteFrom(control, FrameResult, int64(len(exits)), strings.NewReader(exits))
		}, 0},
		"an empty result": {func() error { return WriteFrom(control, FrameResult, 0, strings.NewReader("")) }, 0},
	} {
		flushes = 0
		if err := c.write(); err != nil || flushes != c.want {
			t.Errorf("%s: %d flushes, want %d (%v)", name, flushes, c.want, err)
		}
	}
}

// counted is a stream whose writes are counted.
type counted struct {
	net.Conn
	mu     sync.Mutex
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// taken is the number of writes since it was last asked for.
func (c *counted) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.writes
	c.writes = 0
	return n
}

// A short execution in a sandbox that is parked takes one write each way.
func TestExecutionIsOneWriteEachWay(t *testing.T) {
	a, b := net.Pipe()
	near, far := &counted{Conn: a}, &counted{Conn: b}
	gateway, err := Dial(near)
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	agent, err := Serve(far)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	gateway.burst.wait, agent.burst.wait = time.Hour, time.Hour // this machine may be slow

	kinds := []Kind{KindControl, KindStdin, KindStdout}
	var ours, theirs [3]net.Conn
	for i, kind := range kinds {
		if ours[i], err = gateway.Open(kind); err != nil {
			t.Fatal(err)
		}
	}
	gateway.burst.flush()
	for i := range kinds {
		if _, theirs[i], err = agent.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	agent.burst.flush()
	near.taken()
	far.taken()

	ours[1].Close()
	if err := WriteJSON(ours[0], FrameStart, Start{}); err != nil {
		t.Fatal(err)
	}
	expected := map[FrameType]int{FrameStart: 1000, FrameStarted: 0, FrameExited: 1000}
	if _, err := NewReader(theirs[0]).Next(expected); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(theirs[1]); err != nil {
		t.Fatal(err)
	}
	if n := near.taken(); n != 1 {
		t.Errorf("the gateway made %d writes", n)
	}

	Write(theirs[0], FrameStarted, nil)
	io.WriteString(theirs[2], "4\n")
	theirs[2].Close()
	WriteJSON(theirs[0], FrameExited, Exited{})
	frames := NewReader(ours[0])
	for range 2 {
		if _, err := frames.Next(expected); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := io.ReadAll(ours[2]); string(out) != "4\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if n := far.taken(); n != 1 {
		t.Errorf("the agent made %d writes", n)
	}
}

// Whatever is written and flushed, in whatever pieces, arrives as it was.
func FuzzBurst(f *testing.F) {
	f.Add([]byte("some text"), uint16(3), true)
	f.Add(bytes.Repeat([]byte{0}, 3*burstSize), uint16(burstSize-1), false)
	f.Add([]byte(strings.Repeat(muxFrame(muxWindowUpdate, 0, 7, ""), 9)), uint16(muxHeaderSize), false)
	f.Fuzz(func(t *testing.T, text []byte, piece uint16, flush bool) {
		s := &stream{}
		b := newBurst(s)
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			b.Write(rest[:n])
			if rest = rest[n:]; flush && n%2 == 0 {
				b.flush()
			}
			if len(b.held) > burstSize {
				t.Fatalf("%d bytes are held", len(b.held))
			}
		}
		b.flush()
		if got := strings.Join(s.writes, ""); got != string(text) {
			t.Errorf("%d bytes became %d", len(text), len(got))
		}
	})
}
