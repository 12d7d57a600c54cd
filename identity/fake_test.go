package identity_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
)

// memory is a KeyStore without a disk. Where fail is set, every method fails with it.
type memory struct {
	mu   sync.Mutex
	keys map[string]execution.Key
	fail error
}

func (m *memory) InsertKey(_ context.Context, key execution.Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if _, taken := m.keys[key.ID]; taken {
		return &execution.Error{Kind: execution.KindConflict}
	}
	if m.keys == nil {
		m.keys = map[string]execution.Key{}
	}
	m.keys[key.ID] = key
	return nil
}

func (m *memory) Key(_ context.Context, id string) (execution.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return execution.Key{}, m.fail
	}
	key, ok := m.keys[id]
	if !ok {
		return execution.Key{}, &execution.Error{Kind: execution.KindNotFound}
	}
	return key, nil
}

func (m *memory) Keys(context.Context) ([]execution.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	var keys []execution.Key
	for _, id := range slices.Sorted(maps.Keys(m.keys)) {
		keys = append(keys, m.keys[id])
	}
	return keys, nil
}

func (m *memory) RevokeKey(_ context.Context, id string, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	key, ok := m.keys[id]
	if !ok {
		return &execution.Error{Kind: execution.KindNotFound}
	}
	if key.Revoked.IsZero() {
		key.Revoked = at
		m.keys[id] = key
	}
	return nil
}

func newKeys(t testing.TB) (*identity.APIKeys, *memory) {
	t.Helper()
	m := &memory{}
	keys, err := identity.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return keys, m
}

// create makes a key of tenant acme that may call.
func create(t testing.TB, keys *identity.APIKeys, expires time.Time) (execution.Key, execution.Secret) {
	t.Helper()
	key, text, err := keys.CreateKey(t.Context(), execution.Key{
		Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}, Expires: expires,
	}, recorded)
	if err != nil {
		t.Fatal(err)
	}
	return key, text
}

func recorded(execution.Key) error { return nil }
