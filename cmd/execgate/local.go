package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
)

// operator authenticates everybody as the operator of this machine. It is for
// a gateway that only its own process can reach.
type operator struct{}

// Authenticate implements gateway.Authenticator.
func (operator) Authenticate(context.Context, execution.Secret) (execution.Principal, error) {
	return execution.Principal{
		Subject: "local", Tenant: identity.OperatorTenant, Roles: []execution.Role{execution.RoleAdmin},
		Method: execution.MethodLocal,
	}, nil
}

// pipe is a listener whose connections are made inside the process, so that
// `run --local` takes the very way that a request over the network takes.
type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe {
	return &pipe{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *pipe) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "local" }

// dial makes a connection to the listener.
func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// withLocalGateway runs a gateway in this process, calls use with a client of
// it, and stops it in order.
func withLocalGateway(ctx context.Context, cfg Config, stderr io.Writer, use func(*client) error) error {
	logger, err := newLogger(cfg.Log, stderr)
	if err != nil {
		return err
	}
	a, err := newApp(ctx, cfg, logger, operator{})
	if err != nil {
		return err
	}
	listener := newPipe()
	// The gateway outlives ctx until use has seen how its request ended.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- a.run(running, listener) }()
	used := use(&client{
		base: "http://local",
		// The operator needs no key; the header must be there all the same.
		key:  execution.NewSecret("local"),
		http: &http.Client{Transport: &http.Transport{DialContext: listener.dial}},
	})
	stop()
	return errors.Join(used, <-done)
}
