package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/gateway"
)

// newBroker returns the way out of sandboxes. It asks decider about each request where
// a grant says so, keys requests with what lender lends, and has programs call tools.
func newBroker(cfg EgressConfig, log *audit.Log, budget time.Duration, decider gateway.Decider, lender *lender, tools *insideTools, logger *slog.Logger) (*egress.Broker, error) {
	networks, err := cfg.networks()
	if err != nil {
		return nil, err
	}
	asks, err := gateway.NewEgressDecider(decider, logger)
	if err != nil {
		return nil, err
	}
	config := egress.Config{
		Recorder: log, RecordBudget: budget, AllowedNetworks: networks, IdleTimeout: milliseconds(cfg.IdleTimeoutMS), Logger: logger,
		Decider: asks, Credentials: lender, Tools: tools,
	}
	if cfg.CAFile != "" {
		if config.Roots, err = authorities(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("egress.ca_file: %w", err)
		}
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

// authorities are those of the system and those in a file.
func authorities(path string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificates in PEM", path)
	}
	return pool, nil
}

var _ executor.Egress = (*egress.Broker)(nil)

var _ gateway.Executor = carrying{}

// insideTools are the tools as programs call them. The service is there before anything
// runs: it is made of what runs programs, which is made of these.
type insideTools struct{ *gateway.Service }

var _ egress.Tools = (*insideTools)(nil)

// carrying is the executor whose executions are told what they sent out, and are then
// forgotten by the broker. A job that is a request and no program the broker carries out
// itself.
type carrying struct {
	*executor.Executor
	broker *egress.Broker
}

// Execute implements gateway.Executor.
func (c carrying) Execute(ctx context.Context, job execution.Job) (result execution.Result, err error) {
	if len(job.Grant.Network.Rules) > 0 || job.Call != nil {
		defer func() {
			used := c.broker.End(job.ID)
			result.Usage.EgressRequests, result.Usage.EgressBytes = used.Requests, used.Bytes
		}()
	}
	if job.Call != nil {
		return c.broker.Call(ctx, job), nil
	}
	return c.Executor.Execute(ctx, job)
}
