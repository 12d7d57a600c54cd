package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"golang.org/x/sync/errgroup"
)

// run serves on listener, which it closes, until ctx ends, and returns when
// everything has been stopped in order: no new work, running work ended,
// sandboxes removed, the last record durable and signed. A part that ends
// before it was told to stops the others in the same order. It returns nil
// after an orderly stop.
func (a *app) run(ctx context.Context, listener net.Listener) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()
	serving, stopServing := context.WithCancel(ctx)
	// What stops later runs under contexts of its own.
	executing, stopExecuting := context.WithCancel(context.WithoutCancel(ctx))
	logging, stopLogging := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	defer stopExecuting()
	defer stopLogging()

	served := make(chan struct{})
	var parts errgroup.Group
	parts.Go(func() error {
		defer stopServing()
		return a.log.Run(logging)
	})
	parts.Go(func() error {
		defer stopLogging()
		defer func() { <-served }() // ends are recorded until then
		defer stopServing()
		return a.executor.Run(executing)
	})
	parts.Go(func() error {
		defer stopServing()
		return a.lender.run(logging)
	})
	parts.Go(func() error {
		defer close(served)
		defer stopExecuting()
		defer a.broker.Close()
		return a.serve(serving, listener)
	})
	if !a.idle {
		parts.Go(func() error {
			defer stopServing()
			return a.exporters.Run(logging)
		})
		parts.Go(func() error { return a.records.run(logging) })
	}
	if a.inputs != nil {
		parts.Go(func() error {
			defer stopServing()
			return a.inputs.run(serving, logging)
		})
	}
	return parts.Wait()
}

// serve prepares and then answers requests, until ctx ends.
func (a *app) serve(ctx context.Context, listener net.Listener) error {
	defer listener.Close()
	if err := a.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before it began
		}
		return err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { a.policies.follow(following) })
	follower.Go(func() { a.narrowing.follow(following) })
	defer follower.Wait()
	defer stop()
	return a.gateway.Serve(ctx, listener)
}

// prepare does what must be done before the first request: it removes what a
// crash left, takes back what it had lent, records how that ended and what of the configuration has changed, puts the policy in force, and makes the
// first key.
func (a *app) prepare(ctx context.Context) error {
	if err := a.executor.Reap(ctx); err != nil {
		a.logger.Warn("the engine does not answer yet; abandoned sandboxes are removed when it does", "error", err)
	}
	if err := a.lender.reconcile(ctx); err != nil {
		return err
	}
	if err := a.service.CloseUnended(ctx, a.unended()); err != nil {
		return err
	}
	if err := recordConfig(ctx, a.cfg, a.state, a.log); err != nil {
		return err
	}
	if err := a.recall(); err != nil {
		return err
	}
	if err := a.catalog.load(ctx); err != nil {
		a.logger.Error("no policy is in force: every request is denied until there is one; execgate policy push puts one in force", "error", err)
	}
	if err := a.narrowing.load(ctx); err != nil {
		return err
	}
	return a.makeFirstKey(ctx)
}

// unended is what the log holds open from a life of the gateway that broke off.
func (a *app) unended() []gateway.Unended {
	var unended []gateway.Unended
	for _, open := range a.log.Unended() {
		u := gateway.Unended{Execution: open.Execution, DecidedSeq: open.DecidedSeq, RequestID: open.RequestID, TraceID: open.TraceID}
		if open.Principal != nil {
			u.Principal = *open.Principal
		}
		unended = append(unended, u)
	}
	return unended
}

// recall counts what the last hour's records say was used, for budgets.
func (a *app) recall() error {
	for r, err := range audit.Recent(a.state.path("audit"), time.Now().Add(-time.Hour)) {
		if err != nil {
			return fmt.Errorf("count what was used of budgets: %w", err)
		}
		a.service.Recall(r)
	}
	return nil
}

// makeFirstKey sees to it that somebody can administer the gateway.
func (a *app) makeFirstKey(ctx context.Context) error {
	path := a.state.path("admin.key")
	made, err := a.keys.Bootstrap(ctx, path, func(key execution.Key) error {
		_, err := a.log.Append(ctx, execution.Record{
			Type: execution.RecordKeyCreated,
			Key:  &execution.KeyChange{ID: key.ID, Tenant: key.Tenant, Roles: key.Roles},
		})
		return err
	})
	if made {
		a.logger.Info("admin key made", "file", path)
	}
	return err
}
