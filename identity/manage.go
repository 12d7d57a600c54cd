package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// The bounds of what describes a key.
const (
	maxTenant = 63
	maxLabel  = 128 // bytes
)

// CreateKey makes a key with the tenant, roles, label and expiry of ask, of
// which it ignores the rest, and returns it with its text, which is shown once
// and kept nowhere. What is wrong with ask is an error of KindInvalid with
// JSON pointers /tenant, /roles, /label and /expires.
//
// It calls before with the key as it will be, and the key takes effect only
// where before returned nil: that is where the key's record is made durable.
func (k *APIKeys) CreateKey(ctx context.Context, ask execution.Key, before func(execution.Key) error) (execution.Key, execution.Secret, error) {
	now := time.Now().UTC().Truncate(time.Millisecond) // what the store keeps
	if fields := checkKey(ask, now); len(fields) > 0 {
		return execution.Key{}, execution.Secret{}, &execution.Error{
			Kind: execution.KindInvalid, Detail: "the key cannot be made as asked", Fields: fields,
		}
	}
	id, text, hash := newKey(now)
	key := execution.Key{
		ID: id, Tenant: ask.Tenant, Roles: slices.Compact(slices.Sorted(slices.Values(ask.Roles))),
		Hash: hash, Label: ask.Label, Created: now,
	}
	if !ask.Expires.IsZero() {
		key.Expires = ask.Expires.UTC().Truncate(time.Millisecond)
	}
	if err := before(key); err != nil {
		return execution.Key{}, execution.Secret{}, err
	}
	if err := k.store.InsertKey(ctx, key); err != nil {
		return execution.Key{}, execution.Secret{}, fmt.Errorf("create key: %w", err)
	}
	return key, text, nil
}

// RevokeKey ends the key called id, at once. It returns the key as it is
// afterwards; one that was revoked already stays as it was, and before is not
// called. It is an error of KindNotFound where there is no such key.
//
// It calls before with the key, and the key is revoked only where before
// returned nil.
func (k *APIKeys) RevokeKey(ctx context.Context, id string, before func(execution.Key) error) (execution.Key, error) {
	if !execution.ValidID(execution.PrefixKey, id) {
		return execution.Key{}, &execution.Error{Kind: execution.KindNotFound, Code: "key_not_found", Detail: "there is no such key"}
	}
	key, err := k.store.Key(ctx, id)
	if err != nil {
		return execution.Key{}, fmt.Errorf("revoke key: %w", err)
	}
	if !key.Revoked.IsZero() {
		return key, nil
	}
	if err := before(key); err != nil {
		return execution.Key{}, err
	}
	key.Revoked = time.Now().UTC().Truncate(time.Millisecond)
	if err := k.store.RevokeKey(ctx, id, key.Revoked); err != nil {
		return execution.Key{}, fmt.Errorf("revoke key: %w", err)
	}
	return key, nil
}

// Key returns the key called id, whatever its state. It is an error of
// KindNotFound where there is none.
func (k *APIKeys) Key(ctx context.Context, id string) (execution.Key, error) {
	return k.store.Key(ctx, id)
}

// Keys returns every key, whatever its state, oldest first.
func (k *APIKeys) Keys(ctx context.Context) ([]execution.Key, error) {
	return k.store.Keys(ctx)
}

// ValidTenant reports whether name can be a tenant: 1 to 63 of a-z, 0-9, '-'
// and '_', beginning with a letter or a digit. A tenant names labels, folders
// and policy data, so it holds nothing that means anything in them.
func ValidTenant(name string) bool {
	if name == "" || len(name) > maxTenant || name[0] == '-' || name[0] == '_' {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func checkKey(ask execution.Key, now time.Time) []execution.FieldError {
	var fields []execution.FieldError
	wrong := func(pointer, detail string) {
		fields = append(fields, execution.FieldError{Pointer: pointer, Detail: detail})
	}
	if !ValidTenant(ask.Tenant) {
		wrong("/tenant", "must be 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or a digit")
	}
	if len(ask.Roles) == 0 {
		wrong("/roles", "must name at least one role")
	}
	for i, role := range ask.Roles {
		if !slices.Contains(execution.Roles(), role) {
			wrong(fmt.Sprintf("/roles/%d", i), fmt.Sprintf("is not a role; the roles are %v", execution.Roles()))
		}
	}
	if len(ask.Label) > maxLabel || !utf8.ValidString(ask.Label) || strings.ContainsFunc(ask.Label, unicode.IsControl) {
		wrong("/label", "must be text of at most 128 bytes without control characters")
	}
	if !ask.Expires.IsZero() && !ask.Expires.Truncate(time.Millisecond).After(now) {
		wrong("/expires", "must be in the future")
	}
	return fields
}
