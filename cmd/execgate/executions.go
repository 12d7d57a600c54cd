package main

import (
	"context"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// kept is the store's executions in the gateway's words: the two packages do not
// know each other.
type kept struct{ *store.Executions }

// Claim implements gateway.Executions.
func (k kept) Claim(ctx context.Context, want gateway.Stored) (gateway.Stored, error) {
	held, err := k.Executions.Claim(ctx, store.Execution(want))
	return gateway.Stored(held), err
}

// Save implements gateway.Executions.
func (k kept) Save(ctx context.Context, now gateway.Stored) error {
	return k.Executions.Save(ctx, store.Execution(now))
}

// Load implements gateway.Executions.
func (k kept) Load(ctx context.Context, id string) (gateway.Stored, error) {
	found, err := k.Executions.Load(ctx, id)
	return gateway.Stored(found), err
}
