package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/identity"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
)

// narrowing is what narrows the organisation's policy, and is followed while the
// gateway serves: tenants' own policies, and ceilings.
type narrowing struct {
	folder, file string
	tenants      *activation.Tenants  // nil: there are none
	ceilings     *activation.Ceilings // nil: there are none
	logger       *slog.Logger
}

// newNarrowing puts the ceilings in force, without which nothing may be decided.
func newNarrowing(cfg PolicyConfig, engine *policy.Witness, workers activation.Workers, log *audit.Log, logger *slog.Logger) (*narrowing, error) {
	n := &narrowing{folder: cfg.Tenants, file: cfg.Ceilings, logger: logger}
	record := appendTo(log)
	if n.folder != "" {
		n.tenants = activation.NewTenants(activation.TenantsConfig{
			Folder: n.folder, Valid: identity.ValidTenant, Engine: engine, Workers: workers, RequireTests: cfg.RequireTests, Record: record, Logger: logger,
		})
		if err := n.tenants.Check(); err != nil {
			return nil, usage("policy.tenants: %w", err)
		}
	}
	if n.file != "" {
		var err error
		if n.ceilings, err = activation.NewCeilings(activation.CeilingsConfig{File: n.file, Engine: engine, Record: record, Logger: logger}); err != nil {
			return nil, usage("policy.ceilings: %s: %w", n.file, err)
		}
	}
	return n, nil
}

// load puts every tenant's own policy in force, and records that the ceilings are.
func (n *narrowing) load(ctx context.Context) error {
	if n.ceilings != nil {
		n.ceilings.Look(ctx)
	}
	if n.tenants == nil {
		return nil
	}
	return n.tenants.Load(ctx)
}

// follow puts in force what changes, until ctx ends.
func (n *narrowing) follow(ctx context.Context) {
	var following sync.WaitGroup
	if n.tenants != nil {
		following.Go(func() { watch(ctx, n.folder, n.logger, n.tenants.Look) })
	}
	if n.ceilings != nil {
		following.Go(func() { watch(ctx, n.file, n.logger, n.ceilings.Look) })
	}
	following.Wait()
}

// policyChanges are counted for metrics: those of the organisation's policy, and of
// tenants'.
type policyChanges struct {
	*organisation
	*narrowing
}

// PolicyCounts is for metrics.
func (p policyChanges) PolicyCounts() activation.Counts {
	counts := p.organisation.Counts()
	if p.tenants != nil {
		own := p.tenants.Counts()
		counts.Activated += own.Activated
		counts.Refused += own.Refused
	}
	return counts
}
