package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
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

// lends is what lends to executions and, at first use, to what they send out.
type lends interface {
	gateway.Lender
	egress.Credentials
}

// lender is who lends, with what is to be done for it as long as the gateway serves.
type lender struct {
	lends
	vault  *vault.Vault  // nil: there is none
	leases *store.Leases // with vault
}

// newLender returns the lender of the configured Vault, or, where devFile is not
// empty, of a file that is no Vault, or one that lends nothing.
func newLender(cfg VaultConfig, devFile string, in *store.Store, log *audit.Log, logger *slog.Logger) (*lender, error) {
	record := appendTo(log)
	switch {
	case devFile != "" && cfg.Address != "":
		return nil, usage("--dev-credentials is for a gateway without a Vault, and vault.address names one")
	case devFile != "":
		file, err := vault.NewFile(vault.FileConfig{Path: devFile, Record: record, Logger: logger})
		return &lender{lends: file}, err
	case cfg.Address == "":
		return &lender{lends: vault.Unconfigured{}}, nil
	}
	v, leases, err := newVault(vault.Config{
		Address: cfg.Address, Plaintext: cfg.Plaintext, CAFile: cfg.CAFile, ServerName: cfg.ServerName,
		ClientCert: cfg.ClientCert, ClientKey: cfg.ClientKey, Namespace: cfg.Namespace,
		Timeout: milliseconds(cfg.TimeoutMS), TokenRole: cfg.TokenRole, Mounts: cfg.mounts(),
		MaxTTL: time.Duration(cfg.MaxTTLS) * time.Second,
		Auth: vault.Auth{
			Method: vault.AuthMethod(cfg.Auth.Method), Mount: cfg.Auth.Mount, File: cfg.Auth.File, Role: cfg.Auth.Role, RoleID: cfg.Auth.RoleID,
		},
		Record: record, Logger: logger,
	}, in)
	if err != nil {
		return nil, err
	}
	return &lender{lends: v, vault: v, leases: leases}, nil
}

// reconcile ends what an earlier life of the gateway has lent, before anything else
// is. A Vault that does not answer keeps nobody from starting: it is tried again.
func (l *lender) reconcile(ctx context.Context) error {
	if l.vault == nil {
		return nil
	}
	return l.vault.Reconcile(ctx)
}

// run keeps the lender going until ctx ends.
func (l *lender) run(ctx context.Context) error {
	if l.vault == nil {
		<-ctx.Done()
		return nil
	}
	err := l.vault.Run(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	return errors.Join(err, l.leases.Flush(last))
}

// flushTimeout bounds what the journal has left to write at the end.
const flushTimeout = 5 * time.Second

// counts are of a lender that has a Vault; false: it has none.
func (l *lender) counts() (vault.Counts, bool) {
	if l.vault == nil {
		return vault.Counts{}, false
	}
	return l.vault.Counts(), true
}
