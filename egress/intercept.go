package egress

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

const (
	// headTimeout bounds the wait for a request's head, once it has begun.
	headTimeout = 30 * time.Second
	// maxStreams bounds the requests of one connection at once (HTTP/2), and maxBodyHeld
	// what is received of their bodies and not yet sent on, in bytes.
	maxStreams  = 100
	maxBodyHeld = 256 << 10
)

// intercepted is one connection of a program whose requests are decided one by one.
type intercepted struct {
	broker    *Broker
	ended     func() error // not nil once the execution has ended
	job       *execution.Job
	account   *account
	to        destination
	authority *tls.Certificate
	tls       bool
	slashes   bool   // nothing is decided by paths, so that they may have escaped slashes
	code      string // where not empty, all requests are refused with it
	guard     *guard // of HTTP/1

	requests, sockets *upstream

	mu    sync.Mutex
	under sync.WaitGroup // requests
	over  bool
	asked bool // there was a request
}

// intercept serves the requests of a connection to a destination that is open.
func (b *Broker) intercept(ctx context.Context, job *execution.Job, a *account, d destination, authority *tls.Certificate, conn net.Conn) {
	b.answer(ctx, &intercepted{
		broker: b, job: job, account: a, to: d, authority: authority, slashes: d.host != execution.ToolsHost && !b.looksAtPaths(job, d),
		requests: &upstream{broker: b, host: d.host}, sockets: &upstream{broker: b, host: d.host, socket: true},
	}, conn)
}

// explain refuses a connection in words: what it asks for is answered with a problem,
// and nothing of it leaves. What speaks no HTTP is closed without a byte, and so is
// everything where the sandbox has no authority.
func (b *Broker) explain(ctx context.Context, job *execution.Job, a *account, d destination, authority *tls.Certificate, code string, conn net.Conn) {
	if authority == nil || d.rule.Mode == execution.NetworkForward {
		b.refuse(ctx, job, a, d, question{}, code)
		return
	}
	b.answer(ctx, &intercepted{broker: b, job: job, account: a, to: d, authority: authority, code: code}, conn)
}

// answer serves the requests of a connection until it ends.
func (b *Broker) answer(ctx context.Context, i *intercepted, conn net.Conn) {
	i.ended = ctx.Err
	defer context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // closing a stream need not wake who reads it
		_ = conn.Close()                      // nobody uses it any more
	})()
	wait := helloTimeout
	if i.code != "" {
		wait = b.explainWait
	}
	first, whole, err := readFirst(conn, wait)
	if err != nil {
		if i.code != "" {
			b.refuse(ctx, i.job, i.account, i.to, question{}, i.code)
		}
		return // a connection that asks for nothing
	}
	var served net.Conn = stalling{whole, b.idleTimeout}
	switch {
	case first == recordHandshake && i.authority != nil:
		secured, ok := i.handshake(ctx, served)
		if !ok {
			b.refuse(ctx, i.job, i.account, i.to, question{}, i.or(codeTLSFailed))
			return
		}
		served, i.tls = secured, true
	case first == recordHandshake:
		b.refuse(ctx, i.job, i.account, i.to, question{}, codeUnsupported)
		return
	case first < 'A' || first > 'Z':
		b.refuse(ctx, i.job, i.account, i.to, question{}, i.or(codeNotTLS))
		return
	case i.to.port != b.plainPort:
		i.code = i.or(codeTLSRequired)
	}
	i.serve(ctx, served)
	if !i.asked && (i.code != "" || i.to.port == b.plainPort && !i.tls) {
		b.refuse(ctx, i.job, i.account, i.to, question{}, i.or(codeRequestInvalid))
	}
}

// or is the code with which everything is refused, or else that one.
func (i *intercepted) or(code string) string {
	if i.code != "" {
		return i.code
	}
	return code
}

// handshake ends the program's TLS with the sandbox's authority. A hello for another
// server is answered as that one, so that its requests can be refused in words.
func (i *intercepted) handshake(ctx context.Context, conn net.Conn) (*tls.Conn, bool) {
	within, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	secured := tls.Server(conn, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			host := i.to.host
			if code := helloCode(hello, host); code != "" {
				i.code = i.or(code)
				if name, err := normaliseHost(hello.ServerName); err == nil {
					host = name
				}
			}
			return i.account.leaves.of(i.authority, host)
		},
	})
	// On a stack of its own, which it makes large: this one stays as long as the connection.
	done := make(chan error, 1)
	go func() { done <- secured.HandshakeContext(within) }()
	return secured, <-done == nil
}

// serve has net/http serve the one connection, and returns when it and all its
// requests are over.
func (i *intercepted) serve(ctx context.Context, conn net.Conn) {
	l := &one{conn: conn, over: make(chan struct{})}
	if secured, ok := conn.(*tls.Conn); !ok || secured.ConnectionState().NegotiatedProtocol != "h2" {
		i.guard = &guard{Conn: conn}
		l.conn = i.guard
	}
	idle := i.broker.idleTimeout
	if i.code != "" { // it takes a place among the connections, for nothing
		idle = min(idle, i.broker.explainWait)
	}
	server := &http.Server{
		Handler: i, BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				l.end()
			}
		},
		ReadHeaderTimeout: min(headTimeout, idle), IdleTimeout: idle, MaxHeaderBytes: maxHead,
		DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: maxBodyHeld, MaxReceiveBufferPerConnection: maxBodyHeld},
	}
	_ = server.Serve(l) // it ends with the listener
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
	i.under.Wait()
	_ = conn.Close() // whatever it says, nobody uses it any more
	if i.requests != nil {
		i.requests.close()
		i.sockets.close()
	}
}

// begin counts a request in, unless the connection is over.
func (i *intercepted) begin() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.over {
		i.under.Add(1)
		i.asked = true
	}
	return !i.over
}

// one is a listener of one connection.
type one struct {
	conn net.Conn
	once sync.Once
	over chan struct{}
	mu   sync.Mutex
}

// Accept implements net.Listener: after the connection it waits for its end.
func (l *one) Accept() (net.Conn, error) {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	<-l.over
	return nil, net.ErrClosed
}

func (l *one) end() { l.once.Do(func() { close(l.over) }) }

// Close implements net.Listener.
func (l *one) Close() error {
	l.end()
	return nil
}

// Addr implements net.Listener.
func (*one) Addr() net.Addr { return &net.TCPAddr{} }
