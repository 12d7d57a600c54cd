// Package identity turns a credential presented by a caller into a Principal:
// at present, an API key.
package identity

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// KeyStore remembers keys. Its methods are durable and exactly coherent: what
// one has returned, the next one sees.
type KeyStore interface {
	// InsertKey fails with KindConflict where the id is taken.
	InsertKey(ctx context.Context, key execution.Key) error
	// Key fails with KindNotFound where there is no such key.
	Key(ctx context.Context, id string) (execution.Key, error)
	// Keys returns all of them, oldest first.
	Keys(ctx context.Context) ([]execution.Key, error)
	// RevokeKey fails with KindNotFound; the first revocation counts.
	RevokeKey(ctx context.Context, id string, at time.Time) error
}

// Codes of the errors of Authenticate, which are also the reasons that stand
// in records.
const (
	CodeMalformed = "malformed" // not an API key at all
	CodeUnknown   = "unknown"   // no such key, or not its secret: which of them is not told
	CodeExpired   = "expired"   // proven, but past its end
	CodeRevoked   = "revoked"   // proven, but taken back
)

// APIKeys authenticates callers by API key and makes and revokes the keys. It
// is safe for concurrent use.
//
// It keeps no cache: the store answers in tens of microseconds, and so a
// revocation holds from the very next request.
type APIKeys struct {
	store KeyStore
}

// New returns API keys remembered in store.
func New(store KeyStore) (*APIKeys, error) {
	if store == nil {
		return nil, errors.New("identity: no key store")
	}
	return &APIKeys{store: store}, nil
}

// Authenticate proves the holder of credential. Where it fails the error is an
// execution.Error: KindUnauthenticated with one of the codes above, or
// KindUnavailable where the store does not answer. Nobody is let in on a
// failure of ours.
//
// Whether a key exists is told only to those who hold its secret: an unknown id
// and a wrong secret give the same error. Where the credential does name a key
// that exists, the error's cause has a method KeyID, for the record and not for
// the caller.
func (k *APIKeys) Authenticate(ctx context.Context, credential execution.Secret) (execution.Principal, error) {
	id, hash, ok := parseKey(credential)
	if !ok {
		return execution.Principal{}, unauthenticated(CodeMalformed, "the credential is not an API key", "")
	}
	key, err := k.store.Key(ctx, id)
	known := err == nil
	if err != nil && execution.KindOf(err) != execution.KindNotFound {
		return execution.Principal{}, &execution.Error{
			Kind: execution.KindUnavailable, Code: "keys_unavailable",
			Detail: "API keys cannot be checked now", Err: err,
		}
	}
	// Of an unknown key the zero hash is compared, so that the work is the same.
	proven := subtle.ConstantTimeCompare(hash[:], key.Hash[:]) == 1
	switch now := time.Now(); {
	case !known || !proven:
		return execution.Principal{}, unauthenticated(CodeUnknown, "the API key is not valid", key.ID)
	case !key.Revoked.IsZero():
		return execution.Principal{}, unauthenticated(CodeRevoked, "the API key was revoked", key.ID)
	case !key.Expires.IsZero() && !now.Before(key.Expires):
		return execution.Principal{}, unauthenticated(CodeExpired, "the API key has expired", key.ID)
	}
	return execution.Principal{
		Subject: key.ID, Tenant: key.Tenant, Roles: slices.Clone(key.Roles), Method: execution.MethodAPIKey,
	}, nil
}

func unauthenticated(code, detail, keyID string) error {
	e := &execution.Error{Kind: execution.KindUnauthenticated, Code: code, Detail: detail}
	if keyID != "" {
		e.Err = &keyError{id: keyID}
	}
	return e
}

// keyError carries the id of an existing key from a failed authentication to
// the record of it. It is a cause, so it never reaches the caller.
type keyError struct{ id string }

// Error implements error.
func (e *keyError) Error() string { return "key " + e.id }

// KeyID returns the id of the key that the credential named.
func (e *keyError) KeyID() string { return e.id }
