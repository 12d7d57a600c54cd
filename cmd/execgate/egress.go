package main

import (
	"context"
	"log/slog"
	"net"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/gateway"
)

func newBroker(cfg EgressConfig, log *audit.Log, logger *slog.Logger) (*egress.Broker, error) {
	networks, err := cfg.networks()
	if err != nil {
		return nil, err
	}
	config := egress.Config{
		Recorder: log, AllowedNetworks: networks, IdleTimeout: milliseconds(cfg.IdleTimeoutMS), Logger: logger,
	}
	if cfg.Resolver != "" {
		config.Resolver = &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, cfg.Resolver)
			},
		}
	}
	return egress.New(config)
}

// unintercepted is the broker for an executor whose sandboxes have no certificate
// authority: TLS of theirs is not intercepted.
type unintercepted struct{ *egress.Broker }

// Carry implements executor.Egress.
func (u unintercepted) Carry(ctx context.Context, job execution.Job, to execution.Destination, conn net.Conn) {
	u.Broker.Carry(ctx, job, nil, to, conn)
}

var _ gateway.Executor = carrying{}

// carrying is the executor whose executions are told what they sent out, and are then
// forgotten by the broker.
type carrying struct {
	*executor.Executor
	broker *egress.Broker
}

// Execute implements gateway.Executor.
func (c carrying) Execute(ctx context.Context, job execution.Job) (result execution.Result, err error) {
	if len(job.Grant.Network.Rules) > 0 {
		defer func() {
			used := c.broker.End(job.ID)
			result.Usage.EgressRequests, result.Usage.EgressBytes = used.Requests, used.Bytes
		}()
	}
	return c.Executor.Execute(ctx, job)
}
