//go:build linux

package agent

import (
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// drainBytes bounds what is taken from a pipe that a driver keeps open: the
// most that one can hold (pipe(7), F_SETPIPE_SZ without privilege).
const drainBytes = 1 << 20

// pump passes on what a program writes.
type pump struct {
	from *os.File
	to   net.Conn
	done chan struct{}
}

func newPump(from *os.File, to net.Conn) *pump {
	p := &pump{from: from, to: to, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		io.Copy(to, from)
	}()
	return p
}

// wait returns when the program's end is closed and all of it was passed on.
func (p *pump) wait() {
	<-p.done
	p.to.Close()
}

// drain returns when all that was written by now has been passed on. The
// program's end stays open.
func (p *pump) drain() {
	defer p.to.Close()
	p.from.SetReadDeadline(time.Unix(1, 0)) // wakes the copy
	<-p.done
	p.from.SetReadDeadline(time.Time{})
	raw, err := p.from.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 32<<10)
	for taken := 0; taken < drainBytes; {
		n := 0
		raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buffer)
			return true // it is not waited for more
		})
		if err != nil || n <= 0 {
			return
		}
		taken += n
		if _, err := p.to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
