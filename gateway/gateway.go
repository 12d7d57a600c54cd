// Package gateway carries one execution from request to audited result. Service
// is the one way through; Gateway is its HTTP surface.
package gateway

import (
	"context"

	"github.com/execgate/execgate/execution"
)

// Authenticator proves who presents a credential.
type Authenticator interface {
	// Authenticate fails with an execution.Error of KindUnauthenticated, whose
	// Code says why (malformed, unknown, expired, revoked), or of
	// KindUnavailable. Where a cause of the error has a method KeyID() string,
	// that names an existing key for the record.
	Authenticate(ctx context.Context, credential execution.Secret) (execution.Principal, error)
}

// Decider answers what a principal may do.
type Decider interface {
	// Decide has no error: whatever goes wrong is a Decision that denies.
	Decide(ctx context.Context, q execution.Question) execution.Decision
}

// Lender lends credentials to executions and takes them back.
type Lender interface {
	// Lend lends every one of credentials or none.
	Lend(ctx context.Context, executionID string, credentials []execution.Credential) ([]execution.Lease, error)
	// Revoke takes back whatever was lent to the execution, also by a Lend that
	// failed or never returned. It may be called again, and returns the leases
	// as they are then.
	Revoke(ctx context.Context, executionID string) ([]execution.Lease, error)
}

// Executor runs one job in one sandbox.
type Executor interface {
	// Execute returns when the program has ended and nothing of it is left. A
	// program that failed, was stopped by a limit, or was cancelled with ctx is
	// a Result; an error means that the engine failed, and is of
	// KindUnavailable where trying again may help.
	Execute(ctx context.Context, job execution.Job) (execution.Result, error)
}

// Images knows which image would run.
type Images interface {
	// Resolve returns the image of that name, or where image is empty the one
	// whose driver runs language. It fails with KindInvalid or KindNotFound for
	// a language or a name that it does not know, with a Detail that names what
	// would work, and with KindUnavailable where the engine does not answer.
	Resolve(ctx context.Context, language, image string) (execution.Image, error)
}

// Recorder is the audit log.
type Recorder interface {
	// Append returns the record's sequence number once the record is durable. It
	// returns when ctx ends, whatever the disk does.
	Append(ctx context.Context, r execution.Record) (uint64, error)
}

// Keys makes and revokes API keys. before is called with the key as it will be;
// only where it returns nil does the change take effect.
type Keys interface {
	// CreateKey takes Tenant, Roles, Label and Expires of ask. The Secret is the
	// whole text of the key. It fails with KindInvalid and JSON pointers.
	CreateKey(ctx context.Context, ask execution.Key, before func(execution.Key) error) (execution.Key, execution.Secret, error)
	// RevokeKey fails with KindNotFound. A key that is revoked already stays as
	// it is, and before is not called.
	RevokeKey(ctx context.Context, id string, before func(execution.Key) error) (execution.Key, error)
	// Key fails with KindNotFound.
	Key(ctx context.Context, id string) (execution.Key, error)
	// Keys returns every key, oldest first.
	Keys(ctx context.Context) ([]execution.Key, error)
}

// Prober tells whether something the gateway needs is working.
type Prober interface {
	// Ready returns nil where it is. Of an execution.Error the Detail is shown
	// to everybody; any other error only says that the check failed.
	Ready(ctx context.Context) error
}
