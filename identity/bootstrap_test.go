package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
)

func readKey(t *testing.T, path string) execution.Secret {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return execution.NewSecret(strings.TrimSuffix(string(content), "\n"))
}

func bootstrap(t *testing.T, keys *identity.APIKeys, path string, wantMade bool) {
	t.Helper()
	recordedKeys := 0
	made, err := keys.Bootstrap(t.Context(), path, func(key execution.Key) error {
		recordedKeys++
		if key.Tenant != identity.OperatorTenant || !slices.Equal(key.Roles, []execution.Role{execution.RoleAdmin}) {
			t.Errorf("key %+v", key)
		}
		return nil
	})
	if err != nil || made != wantMade || (recordedKeys == 1) != wantMade {
		t.Fatalf("made %v, recorded %d, error %v; want made %v", made, recordedKeys, err, wantMade)
	}
}

func TestFirstStartMakesAnAdminKey(t *testing.T) {
	keys, m := newKeys(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.key")
	bootstrap(t, keys, path, true)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	p, err := keys.Authenticate(t.Context(), readKey(t, path))
	if err != nil || !p.Has(execution.RoleAdmin) || p.Tenant != identity.OperatorTenant {
		t.Errorf("principal %+v, %v", p, err)
	}

	// Every later start finds it and does nothing.
	before, _ := os.ReadFile(path)
	bootstrap(t, keys, path, false)
	if after, _ := os.ReadFile(path); string(after) != string(before) || len(m.keys) != 1 {
		t.Error("the second start changed the key")
	}
}

func TestKeyOfTheFileIsTakenUpWhereTheStoreLostIt(t *testing.T) {
	keys, _ := newKeys(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	bootstrap(t, keys, path, true)
	text := readKey(t, path)

	keys, _ = newKeys(t)
	bootstrap(t, keys, path, true)
	if _, err := keys.Authenticate(t.Context(), text); err != nil {
		t.Error(err)
	}
}

// A first start that broke off between the file and the record is completed by the next.
func TestBrokenOffFirstStart(t *testing.T) {
	keys, m := newKeys(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	full := errors.New("the log is full")
	if made, err := keys.Bootstrap(t.Context(), path, func(execution.Key) error { return full }); made || !errors.Is(err, full) {
		t.Fatalf("made %v, error %v", made, err)
	}
	if len(m.keys) != 0 {
		t.Error("the key took effect without its record")
	}
	bootstrap(t, keys, path, true)
}

func TestFilePutAwayOnPurpose(t *testing.T) {
	keys, m := newKeys(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	bootstrap(t, keys, path, true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	bootstrap(t, keys, path, false)
	if _, err := os.Stat(path); err == nil {
		t.Error("a second admin key was made")
	}

	// Once no admin key is usable, a restart gives a new one.
	for id := range m.keys {
		if _, err := keys.RevokeKey(t.Context(), id, recorded); err != nil {
			t.Fatal(err)
		}
	}
	bootstrap(t, keys, path, true)
	if _, err := keys.Authenticate(t.Context(), readKey(t, path)); err != nil {
		t.Error(err)
	}
}

func TestRevokedAdminKeyStaysRevoked(t *testing.T) {
	keys, m := newKeys(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	bootstrap(t, keys, path, true)
	for id := range m.keys {
		if _, err := keys.RevokeKey(t.Context(), id, recorded); err != nil {
			t.Fatal(err)
		}
	}
	bootstrap(t, keys, path, false)
	if _, err := keys.Authenticate(t.Context(), readKey(t, path)); code(err) != identity.CodeRevoked {
		t.Errorf("got %v, want revoked", err)
	}
}

func TestAdminKeyFileIsNeverOverwritten(t *testing.T) {
	id := execution.NewID(execution.PrefixKey, time.Now())
	good := id + "." + strings.Repeat("A", 43) + "\n"
	tests := []struct {
		name, want string
		prepare    func(path string) error
	}{
		{"no key", "does not hold an API key", func(p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) }},
		{"empty", "does not hold an API key", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		{"huge", "does not hold an API key", func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) }},
		{"open to others", "chmod 600", func(p string) error {
			return errors.Join(os.WriteFile(p, []byte(good), 0o600), os.Chmod(p, 0o644))
		}},
		{"folder", "not a plain file", func(p string) error { return os.Mkdir(p, 0o700) }},
		{"link", "not a plain file", func(p string) error { return os.Symlink("/dev/null", p) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			keys, m := newKeys(t)
			path := filepath.Join(t.TempDir(), "admin.key")
			if err := test.prepare(path); err != nil {
				t.Fatal(err)
			}
			made, err := keys.Bootstrap(t.Context(), path, recorded)
			if made || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("made %v, error %v; want one that says %q", made, err, test.want)
			}
			if len(m.keys) != 0 {
				t.Error("a key was made")
			}
		})
	}
	t.Run("another secret than the store's", func(t *testing.T) {
		keys, m := newKeys(t)
		path := filepath.Join(t.TempDir(), "admin.key")
		m.keys = map[string]execution.Key{id: {ID: id, Hash: [32]byte{1}}}
		if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		if made, err := keys.Bootstrap(t.Context(), path, recorded); made || err == nil || m.keys[id].Hash != ([32]byte{1}) {
			t.Errorf("made %v, error %v", made, err)
		}
	})
}
