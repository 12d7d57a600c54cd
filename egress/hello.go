package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

const (
	// helloTimeout bounds the wait for what a program says first, and its handshake.
	helloTimeout = 30 * time.Second

	recordHandshake = 0x16   // RFC 8446, 5.1: the first byte of a client's hello
	extensionECH    = 0xfe0d // RFC 9849, 5: encrypted_client_hello
)

// Codes of what a program says first.
const (
	codeSNIMissing  = "sni_missing"
	codeSNIMismatch = "sni_mismatch"
	codeECH         = "encrypted_hello_refused"
	codeNotTLS      = "not_tls"    // no hello, and nothing else that may be said there
	codeTLSFailed   = "tls_failed" // the program's handshake
)

// begun is a connection of which the beginning was read already.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (c *begun) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// CloseWrite ends this way of the connection where that can be.
func (c *begun) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// readFirst reads the first byte that the program sends, and returns it with a
// connection that has it still.
func readFirst(conn net.Conn, wait time.Duration) (byte, *begun, error) {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return 0, nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return 0, nil, err
	}
	return first[0], &begun{conn, first}, nil
}

// overheard notes what is read, and writes nothing.
type overheard struct {
	net.Conn
	read bytes.Buffer
}

// Read implements net.Conn.
func (c *overheard) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

// Write implements net.Conn. What a handshake that is given up says is for nobody.
func (c *overheard) Write(p []byte) (int, error) { return len(p), nil }

// errHeard ends a handshake once the client's hello is known.
var errHeard = errors.New("the hello is known")

// readHello reads the program's hello and returns what it names, with a connection
// that has all of it still. A code says why it is none, or which it may not be.
func readHello(ctx context.Context, conn net.Conn, host string) (*begun, string) {
	within, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	heard := &overheard{Conn: conn}
	code := codeNotTLS
	err := tls.Server(heard, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if code = helloCode(hello, host); slices.Contains(hello.Extensions, extensionECH) {
			code = codeECH
		}
		return nil, errHeard
	}}).HandshakeContext(within)
	if ctx.Err() != nil {
		return nil, codeCancelled
	}
	if err != nil && within.Err() != nil {
		return nil, codeNotTLS
	}
	return &begun{conn, heard.read.Bytes()}, code
}

// helloCode says why a hello is not for host, or is empty.
func helloCode(hello *tls.ClientHelloInfo, host string) string {
	if hello.ServerName == "" {
		return codeSNIMissing
	}
	if name, err := normaliseHost(hello.ServerName); err != nil || name != host {
		return codeSNIMismatch
	}
	return ""
}
