package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// connection is one connection to a receiver.
type connection struct {
	tls   *tls.Conn
	plain *net.TCPConn
	most  time.Duration // without any progress
	ended chan struct{} // closed when the receiver has ended it
}

// dial connects, with the handshake, within most.
func dial(ctx context.Context, address string, cfg *tls.Config, most time.Duration) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	plain, ok := raw.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not reached by TCP", address), raw.Close())
	}
	c := &connection{tls: tls.Client(plain, cfg), plain: plain, most: most, ended: make(chan struct{})}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	go func() {
		// A receiver has nothing to say; that it hangs up is noticed before something
		// is written into nowhere.
		defer close(c.ended)
		_, _ = io.Copy(io.Discard, c.tls)
	}()
	return c, nil
}

func (c *connection) broken() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// writeAtOnce is how much is written before the time for it begins anew.
const writeAtOnce = 64 << 10

// write writes all of text, as long as that gets on.
func (c *connection) write(ctx context.Context, text []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.plain.SetWriteDeadline(time.Now()) })
	defer stop()
	for len(text) > 0 {
		if err := c.plain.SetWriteDeadline(time.Now().Add(c.most)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := c.tls.Write(text[:min(len(text), writeAtOnce)])
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// taken waits until the machine of the receiver has acknowledged every byte, as long as
// that gets on.
func (c *connection) taken(ctx context.Context) error {
	least, since := -1, time.Now()
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		unsent, err := outstanding(c.plain)
		if err != nil {
			return fmt.Errorf("ask what the receiver has: %w", err)
		}
		switch {
		case c.broken():
			return errors.New("the receiver ended the connection")
		case unsent == 0:
			return nil
		case least < 0 || unsent < least:
			least, since = unsent, time.Now()
		case time.Since(since) > c.most:
			return errors.New("the receiver does not take what was sent")
		}
		select {
		case <-c.ended:
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close ends the connection, and waits until nothing reads of it any more.
func (c *connection) close() {
	_ = c.plain.SetWriteDeadline(time.Now().Add(time.Second))
	_ = c.tls.Close()
	<-c.ended
}

// outstanding is how many bytes the other side's machine has not acknowledged yet
// (tcp(7), SIOCOUTQ).
func outstanding(conn *net.TCPConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) { n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	if err == nil {
		err = ioctlErr
	}
	return n, err
}
