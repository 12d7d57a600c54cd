package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// fresh is how long the addresses of a name are used by one connection of a program
// before they are looked up, and checked, again.
const fresh = 30 * time.Second

// maxAnswerHead bounds the head of an answer, in bytes.
const maxAnswerHead = 256 << 10

// What is received of answers in HTTP/2 and not yet passed on, in bytes: of one answer,
// and of all of a connection. net/http takes 4 MiB and 1 GiB otherwise, which a program
// that asks for much and reads nothing would have the gateway hold.
const (
	maxAnswerHeld     = 1 << 20
	maxConnectionHeld = 4 << 20
)

// transportBuffer is what a connection to a destination holds each way, in bytes: a head
// of the usual size fits, and of a body more is read and written past it.
const transportBuffer = 2 << 10

// upstream is what one connection of a program is carried on to: the addresses of its
// name, and the connections to one of them.
type upstream struct {
	broker *Broker
	host   string
	socket bool      // for WebSockets, which are of HTTP/1.1
	made   time.Time // of one that may be kept

	mu        sync.Mutex
	addresses []netip.Addr
	looked    time.Time
	private   bool
	address   netip.AddrPort // that was tried last
	// transports connect to the one address that they are for, and to no other.
	transports map[netip.AddrPort]*http.Transport

	open conns
}

// dialError is why nothing was connected to.
type dialError struct {
	code string
	err  error
}

func (e *dialError) Error() string { return e.code }
func (e *dialError) Unwrap() error { return e.err }

// candidates returns the addresses to try, the one in use first.
func (u *upstream) candidates(ctx context.Context, private bool) ([]netip.Addr, string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.addresses != nil && u.private == private && time.Since(u.looked) < fresh {
		return u.addresses, ""
	}
	found, code := u.broker.lookUp(ctx, u.host, private)
	if code != "" {
		return nil, code
	}
	if i := slices.Index(found, u.address.Addr()); i > 0 {
		found = slices.Insert(slices.Delete(found, i, i+1), 0, u.address.Addr())
	}
	u.addresses, u.looked, u.private = found, time.Now(), private
	return found, ""
}

// to returns the transport for one address, which is checked.
func (u *upstream) to(address netip.AddrPort) *http.Transport {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.address != address {
		if i := slices.Index(u.addresses, address.Addr()); i > 0 && u.address.IsValid() { // this one works, it seems
			u.addresses = slices.Insert(slices.Delete(slices.Clone(u.addresses), i, i+1), 0, address.Addr())
		}
		u.address = address
	}
	t := u.transports[address]
	if t == nil {
		if u.transports == nil {
			u.transports = map[netip.AddrPort]*http.Transport{}
		}
		t = u.newTransport(address)
		u.transports[address] = t
	}
	return t
}

func (u *upstream) newTransport(address netip.AddrPort) *http.Transport {
	b := u.broker
	share := b.dialTimeout / time.Duration(max(len(u.addresses), 1))
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx, address, share)
			if err != nil {
				return nil, &dialError{dialCode(ctx, err), err}
			}
			return u.open.add(stalling{conn, b.idleTimeout})
		},
		TLSClientConfig:     &tls.Config{RootCAs: b.roots, ServerName: u.host, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: b.dialTimeout, DisableCompression: true,
		MaxResponseHeaderBytes: maxAnswerHead, ResponseHeaderTimeout: b.idleTimeout, IdleConnTimeout: b.idleTimeout,
		HTTP2:               &http.HTTP2Config{MaxReceiveBufferPerStream: maxAnswerHeld, MaxReceiveBufferPerConnection: maxConnectionHeld},
		MaxIdleConnsPerHost: 16, ReadBufferSize: transportBuffer, WriteBufferSize: transportBuffer,
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!u.socket)
	t.Protocols, t.ForceAttemptHTTP2 = protocols, !u.socket
	return t
}

// close closes all connections: nothing is sent through them any more. Those of requests
// that were given up would not be idle yet, and then stay for the time that idle ones do.
func (u *upstream) close() {
	u.mu.Lock()
	transports := slices.Collect(maps.Values(u.transports))
	u.mu.Unlock()
	for _, t := range transports {
		t.CloseIdleConnections()
	}
	u.open.close()
}

// conns are connections that are open.
type conns struct {
	mu   sync.Mutex
	open map[*opened]struct{}
	over bool
}

// opened is a connection among them, until it is closed.
type opened struct {
	stalling
	among *conns
}

// add adds one, which is closed where they all are.
func (c *conns) add(conn stalling) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = conn.Close() // nobody has used it
		return nil, net.ErrClosed
	}
	if c.open == nil {
		c.open = map[*opened]struct{}{}
	}
	o := &opened{conn, c}
	c.open[o] = struct{}{}
	return o, nil
}

// any reports whether there is one.
func (c *conns) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) > 0
}

// close closes them all, and whatever is added later.
func (c *conns) close() {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.over = true
	c.mu.Unlock()
	for _, o := range open {
		_ = o.Close() // whatever it says, nobody uses it any more
	}
}

// Close implements net.Conn.
func (o *opened) Close() error {
	o.among.mu.Lock()
	delete(o.among.open, o)
	o.among.mu.Unlock()
	return o.stalling.Close()
}

// stalling is a connection of which no write takes longer than it may.
type stalling struct {
	net.Conn
	most time.Duration
}

// Write implements net.Conn.
func (c stalling) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.most)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn. It wakes who reads or writes: closing a stream need not.
func (c stalling) Close() error {
	_ = c.Conn.SetDeadline(time.Unix(1, 0)) // where it fails, so has the connection
	return c.Conn.Close()
}

// CloseWrite ends this way of the connection where that can be.
func (c stalling) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// failureCode says why a round trip came to nothing.
func failureCode(err error) string {
	if e, ok := errors.AsType[*dialError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return codeCertificate
	}
	if isTimeout(err) {
		return codeIdle
	}
	return codeUpstream
}
