package egress

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEndOfTheExecutionEndsBothSides(t *testing.T) {
	l, to := listen(t)
	log := &memory{}
	b := newBroker(t, Config{Recorder: log})
	ctx, cancel := context.WithCancel(t.Context())
	c := carry(t, ctx, b, jobTo(to, plenty), to)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	cancel()
	c.wait(t)
	if got := readAll(t, c) + readAll(t, accepted); got != "" {
		t.Errorf("%q was read", got)
	}
	if diff := cmp.Diff([]string{"allow", "end " + codeCancelled}, log.codes()); diff != "" {
		t.Error(diff)
	}
	b.End("exec_1")
	late := carry(t, ctx, b, jobTo(to, plenty), to)
	late.wait(t)
	noneBefore(t, l)
	if n := b.Stats().Executions; n != 0 || len(log.codes()) != 2 {
		t.Errorf("a connection after the end is %d executions, %v", n, log.codes())
	}
}

// Also where it waits for somebody who does not read.
func TestEndOfTheExecutionEndsWhatIsStuck(t *testing.T) {
	l, to := listen(t)
	stuck := make(chan struct{})
	serve(t, l, func(c *net.TCPConn) {
		for err := error(nil); err == nil; { // until there is no room
			_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = c.Write(make([]byte, 64<<10))
		}
		close(stuck)
		_ = c.SetDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, c)
	})
	log := &memory{}
	ctx, cancel := context.WithCancel(t.Context())
	c := carry(t, ctx, newBroker(t, Config{Recorder: log}), jobTo(to, plenty), to)
	<-stuck
	cancel()
	c.wait(t)
	if diff := cmp.Diff([]string{"allow", "end " + codeCancelled}, log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestEitherSideMayEndFirst(t *testing.T) {
	for _, tt := range []struct {
		name    string
		server  func(c *net.TCPConn)
		program func(c *net.TCPConn)
	}{
		{"the program, then the destination", func(c *net.TCPConn) {
			_, _ = io.Copy(io.Discard, c)
			write(t, c, "last words")
		}, func(c *net.TCPConn) {
			_ = c.CloseWrite()
			if got := readAll(t, c); got != "last words" {
				t.Errorf("the program reads %q", got)
			}
		}},
		{"the destination, then the program", func(c *net.TCPConn) {
			_ = c.CloseWrite()
			if got := readAll(t, c); got != "last words" {
				t.Errorf("the destination reads %q", got)
			}
		}, func(c *net.TCPConn) {
			_, _ = io.Copy(io.Discard, c)
			write(t, c, "last words")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, to := listen(t)
			serve(t, l, tt.server)
			log := &memory{}
			c := carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, plenty), to)
			tt.program(c.TCPConn)
			c.Close()
			c.wait(t)
			if diff := cmp.Diff([]string{"allow", "end "}, log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A program that has ended its half, and then closes, has ended the connection.
func TestProgramThatWantsNoMore(t *testing.T) {
	l, to := listen(t)
	ended, closed := make(chan struct{}), make(chan struct{})
	serve(t, l, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		close(ended)
		<-closed
		for err := error(nil); err == nil; {
			_, err = c.Write(make([]byte, 64<<10))
		}
	})
	log := &memory{}
	c := carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, plenty), to)
	_ = c.CloseWrite()
	<-ended
	c.Close()
	close(closed)
	c.wait(t)
	if diff := cmp.Diff([]string{"allow", "end "}, log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestConnectionThatBreaks(t *testing.T) {
	l, to := listen(t)
	serve(t, l, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_ = c.SetLinger(0) // closing resets
	})
	log := &memory{}
	c := carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, plenty), to)
	write(t, c, "hello")
	c.wait(t)
	if diff := cmp.Diff([]string{"allow", "end " + codeBroken}, log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestIdleConnectionEnds(t *testing.T) {
	l, to := listen(t)
	log := &memory{}
	c := carry(t, t.Context(), newBroker(t, Config{Recorder: log, IdleTimeout: 100 * time.Millisecond}), jobTo(to, plenty), to)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	c.wait(t)
	if diff := cmp.Diff([]string{"allow", "end " + codeIdle}, log.codes()); diff != "" {
		t.Error(diff)
	}
}

// One direction keeps the other alive: a long answer to a short question.
func TestOneDirectionIsEnoughNotToBeIdle(t *testing.T) {
	lengthening(t, time.Second, func(t testing.TB, idle time.Duration) {
		const beats = 12
		l, to := listen(t)
		serve(t, l, func(c *net.TCPConn) {
			tick := time.NewTicker(idle / 8)
			defer tick.Stop()
			for range beats {
				<-tick.C
				if _, err := c.Write([]byte(".")); err != nil {
					return // which the program sees
				}
			}
		})
		log := &memory{}
		c := carry(t, t.Context(), newBroker(t, Config{Recorder: log, IdleTimeout: idle}), jobTo(to, plenty), to)
		if got := readAll(t, c); got != strings.Repeat(".", beats) {
			t.Errorf("the program reads %q", got)
		}
		c.Close()
		c.wait(t)
		if diff := cmp.Diff([]string{"allow", "end "}, log.codes()); diff != "" {
			t.Error(diff)
		}
	})
}

// What nobody reads is not taken: the broker holds one buffer, the kernel its own.
func TestSlowReaderSlowsTheSender(t *testing.T) {
	const most = 64 << 20
	content := make([]byte, most)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	l, to := listen(t)
	var sent atomic.Int64
	stuck := make(chan struct{})
	serve(t, l, func(c *net.TCPConn) {
		for rest := content; len(rest) > 0; {
			_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := c.Write(rest[:min(len(rest), 64<<10)])
			sent.Add(int64(n))
			rest = rest[n:]
			if err != nil {
				select {
				case <-stuck:
				default:
					close(stuck)
				}
			}
		}
	})
	b := newBroker(t, Config{Recorder: &memory{}})
	c := carry(t, t.Context(), b, jobTo(to, plenty), to)
	<-stuck
	if n := sent.Load(); n > most/2 {
		t.Errorf("%d bytes were taken that nobody reads", n)
	}
	if got := readAll(t, c); !bytes.Equal([]byte(got), content) {
		t.Errorf("of %d bytes %d came through, or others", most, len(got))
	}
	c.Close()
	c.wait(t)
}
