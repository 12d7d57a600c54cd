package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

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

// withLocalGateway runs a gateway in this process, calls use with a client of
// it, and stops it in order.
func withLocalGateway(ctx context.Context, cfg Config, stderr io.Writer, use func(*client) error) error {
	cfg.Executor = cfg.Executor.cold() // there is one execution, and it starts now
	secrets := &liveSecrets{to: stderr}
	a, err := newApp(ctx, cfg, newLogger(cfg.Log, secrets), appOptions{authenticator: operator{}, secrets: secrets, idle: true})
	if err != nil {
		return err
	}
	listener := newPipe()
	// The gateway outlives ctx until use has seen how its request ended.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- a.run(running, listener) }()
	used := use(&client{
		base: "http://local",
		// The operator needs no key; the header must be there all the same.
		key:  execution.NewSecret("local"),
		http: &http.Client{Transport: &http.Transport{DialContext: listener.dial}, CheckRedirect: noRedirect},
	})
	stop()
	ran := <-done
	if ran != nil && errors.Is(used, net.ErrClosed) {
		return ran // the gateway did not come up: why, and not that it was not there
	}
	return errors.Join(used, ran)
}
