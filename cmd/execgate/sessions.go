package main

import (
	"context"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// keptSessions is the store's sessions in the gateway's words, as kept is its
// executions.
type keptSessions struct{ *store.Sessions }

// Add implements gateway.Sessions.
func (k keptSessions) Add(ctx context.Context, s gateway.StoredSession) error {
	return k.Sessions.Add(ctx, store.Session(s))
}

// Load implements gateway.Sessions.
func (k keptSessions) Load(ctx context.Context, id string) (gateway.StoredSession, error) {
	found, err := k.Sessions.Load(ctx, id)
	return gateway.StoredSession(found), err
}

// Left implements gateway.Sessions.
func (k keptSessions) Left(ctx context.Context) ([]gateway.StoredSession, error) {
	left, err := k.Sessions.Left(ctx)
	var out []gateway.StoredSession
	for _, s := range left {
		out = append(out, gateway.StoredSession(s))
	}
	return out, err
}
