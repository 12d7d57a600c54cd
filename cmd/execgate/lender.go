package main

import (
	"context"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
	"github.com/execgate/execgate/vault"
)

// What may lend, as the gateway wants it.
var (
	_ gateway.Lender = vault.Unconfigured{}
	_ gateway.Lender = (*vault.Vault)(nil)
	_ gateway.Lender = (*vault.File)(nil)
)

// keptLeases is the store's leases in the lender's words, as kept is its executions.
type keptLeases struct{ *store.Leases }

// Begin implements vault.Journal.
func (k keptLeases) Begin(ctx context.Context, e vault.Entry) error {
	return k.Leases.Begin(ctx, store.Lease(e))
}

// Open implements vault.Journal.
func (k keptLeases) Open(ctx context.Context) ([]vault.Entry, error) {
	left, err := k.Leases.Open(ctx)
	var out []vault.Entry
	for _, l := range left {
		out = append(out, vault.Entry(l))
	}
	return out, err
}

// newVault returns the lender of a configured Vault, with its journal in the store.
// Who serves with it calls Reconcile before anything is lent, Run for as long as it
// serves, and then the journal's Flush.
func newVault(cfg vault.Config, in *store.Store) (*vault.Vault, *store.Leases, error) {
	leases, err := store.NewLeases(in)
	if err != nil {
		return nil, nil, err
	}
	cfg.Journal = keptLeases{leases}
	lender, err := vault.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	return lender, leases, nil
}
