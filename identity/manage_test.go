package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
)

// Nothing takes effect before its record is durable.
func TestKeyTakesEffectOnlyAfterItsRecord(t *testing.T) {
	keys, m := newKeys(t)
	refused := errors.New("the log is full")
	ask := execution.Key{Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}}

	_, text, err := keys.CreateKey(t.Context(), ask, func(key execution.Key) error {
		if len(m.keys) != 0 {
			t.Error("the key is in the store before its record")
		}
		if key.ID == "" || key.Tenant != "acme" {
			t.Errorf("the record would be of %+v", key)
		}
		return refused
	})
	if !errors.Is(err, refused) || len(m.keys) != 0 || text.Reveal() != "" {
		t.Errorf("error %v, %d keys in the store", err, len(m.keys))
	}

	key, text := create(t, keys, time.Time{})
	_, err = keys.RevokeKey(t.Context(), key.ID, func(execution.Key) error {
		if _, err := keys.Authenticate(t.Context(), text); err != nil {
			t.Errorf("revoked before its record: %v", err)
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if _, err := keys.Authenticate(t.Context(), text); err != nil {
		t.Errorf("revoked without a record: %v", err)
	}
}

func TestSecretIsNotRemembered(t *testing.T) {
	keys, m := newKeys(t)
	key, text := create(t, keys, time.Time{})
	_, random, _ := strings.Cut(text.Reveal(), ".")
	if stored := m.keys[key.ID]; stored.Hash == ([32]byte{}) || strings.Contains(stored.Label+stored.Tenant, random) {
		t.Errorf("stored %+v", stored)
	}
}

func TestRevokingTwice(t *testing.T) {
	keys, _ := newKeys(t)
	key, _ := create(t, keys, time.Time{})
	first, err := keys.RevokeKey(t.Context(), key.ID, recorded)
	if err != nil || first.Revoked.IsZero() {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := keys.RevokeKey(t.Context(), key.ID, func(execution.Key) error {
		t.Error("a second record of the same revocation")
		return nil
	})
	if err != nil || !second.Revoked.Equal(first.Revoked) {
		t.Errorf("%+v, %v", second, err)
	}
	for _, id := range []string{"", "../../x", execution.NewID(execution.PrefixKey, time.Now())} {
		if _, err := keys.RevokeKey(t.Context(), id, recorded); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("revoke %q: %v, want not_found", id, err)
		}
	}
}

func TestKeyIsCheckedBeforeItIsMade(t *testing.T) {
	keys, m := newKeys(t)
	good := execution.Key{Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}}
	tests := []struct {
		name    string
		change  func(*execution.Key)
		pointer string
	}{
		{"no tenant", func(k *execution.Key) { k.Tenant = "" }, "/tenant"},
		{"tenant with a slash", func(k *execution.Key) { k.Tenant = "../x" }, "/tenant"},
		{"tenant in upper case", func(k *execution.Key) { k.Tenant = "Acme" }, "/tenant"},
		{"tenant with a line break", func(k *execution.Key) { k.Tenant = "acme\n" }, "/tenant"},
		{"tenant too long", func(k *execution.Key) { k.Tenant = strings.Repeat("a", 64) }, "/tenant"},
		{"no roles", func(k *execution.Key) { k.Roles = nil }, "/roles"},
		{"unknown role", func(k *execution.Key) { k.Roles = []execution.Role{"caller", "root"} }, "/roles/1"},
		{"label with an escape code", func(k *execution.Key) { k.Label = "a\x1b[2J" }, "/label"},
		{"label too long", func(k *execution.Key) { k.Label = strings.Repeat("a", 129) }, "/label"},
		{"expired", func(k *execution.Key) { k.Expires = time.Now() }, "/expires"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ask := good
			test.change(&ask)
			_, _, err := keys.CreateKey(t.Context(), ask, func(execution.Key) error {
				t.Error("it was recorded")
				return nil
			})
			e, ok := errors.AsType[*execution.Error](err)
			if !ok || e.Kind != execution.KindInvalid || len(e.Fields) != 1 || e.Fields[0].Pointer != test.pointer {
				t.Errorf("got %v, want invalid at %s", err, test.pointer)
			}
		})
	}
	if len(m.keys) != 0 {
		t.Errorf("%d keys in the store", len(m.keys))
	}
	if !identity.ValidTenant(identity.OperatorTenant) {
		t.Error("the operator's tenant is not a valid name")
	}
}
