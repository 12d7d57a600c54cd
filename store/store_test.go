package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func sampleKey(id string) execution.Key {
	return execution.Key{
		ID: id, Tenant: "acme", Roles: []execution.Role{execution.RoleCaller, execution.RoleAuditor},
		Hash: [32]byte{1, 2, 3, 31: 9}, Label: "ci",
		Created: time.UnixMilli(1_700_000_000_123).UTC(),
		Expires: time.UnixMilli(1_800_000_000_456).UTC(),
	}
}

func TestKeysOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	first, second := sampleKey("ak_1"), sampleKey("ak_2")
	second.Roles, second.Expires, second.Label = nil, time.Time{}, ""

	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []execution.Key{second, first} {
		if err := s.InsertKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	revoked := time.UnixMilli(1_750_000_000_000).UTC()
	if err := s.RevokeKey(t.Context(), "ak_2", revoked); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, path)
	second.Roles, second.Revoked = []execution.Role{}, revoked
	got, err := s.Keys(t.Context())
	if diff := cmp.Diff([]execution.Key{first, second}, got); diff != "" || err != nil {
		t.Fatalf("error %v, keys (-want +got):\n%s", err, diff)
	}
	one, err := s.Key(t.Context(), "ak_1")
	if diff := cmp.Diff(first, one); diff != "" || err != nil {
		t.Fatalf("error %v, key (-want +got):\n%s", err, diff)
	}
}

func TestNoKeys(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	if keys, err := s.Keys(t.Context()); keys == nil || len(keys) != 0 || err != nil {
		t.Errorf("Keys() = %#v, %v; want an empty list that is not nil", keys, err)
	}
	for name, err := range map[string]error{
		"Key":       func() error { _, err := s.Key(t.Context(), "ak_1"); return err }(),
		"RevokeKey": s.RevokeKey(t.Context(), "ak_1", time.Now()),
	} {
		if execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%s of a key that is not there: %v, want not_found", name, err)
		}
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnIDStandsOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	key := sampleKey("ak_1")
	if err := s.InsertKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	other := key
	other.Hash, other.Roles = [32]byte{7}, []execution.Role{execution.RoleAdmin}
	if err := s.InsertKey(t.Context(), other); execution.KindOf(err) != execution.KindConflict {
		t.Errorf("second insert: %v, want conflict", err)
	}
	if got, _ := s.Key(t.Context(), "ak_1"); got.Hash != key.Hash {
		t.Error("the second insert replaced the first key")
	}
}

func TestFirstRevocationCounts(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	if err := s.InsertKey(t.Context(), sampleKey("ak_1")); err != nil {
		t.Fatal(err)
	}
	first := time.UnixMilli(1_750_000_000_000).UTC()
	for i := range 3 {
		if err := s.RevokeKey(t.Context(), "ak_1", first.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
		// Read at once, over another connection: a revocation that has returned is seen.
		if key, err := s.Key(t.Context(), "ak_1"); err != nil || !key.Revoked.Equal(first) {
			t.Fatalf("revoked at %v, %v; want %v", key.Revoked, err, first)
		}
	}
}

func TestDatabaseIsForItsOwnerOnly(t *testing.T) {
	// A name with everything a URI or SQLite could mistake.
	path := filepath.Join(t.TempDir(), "a b?mode=memory#c%41&d.db")
	s := open(t, path)
	if err := s.InsertKey(t.Context(), sampleKey("ak_1")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", filepath.Base(name), info.Mode())
		}
	}
}

func TestDurabilitySettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	open(t, path)
	db := raw(t, path)
	var mode string
	if err := db.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal_mode %q, %v; want wal", mode, err)
	}
}

func TestForeignAndNewerDatabasesAreRefused(t *testing.T) {
	tests := []struct{ name, statement, want string }{
		{"newer", "PRAGMA user_version = 99", "version 99"},
		{"negative", "PRAGMA user_version = -1", "version -1"},
		{"of another program", "PRAGMA application_id = 7", "another program"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			s, err := store.Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := raw(t, path).Exec(test.statement); err != nil {
				t.Fatal(err)
			}
			refused(t, path, test.want)
		})
	}
	t.Run("tables of another program", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.db")
		if _, err := raw(t, path).Exec("CREATE TABLE bookmarks (url TEXT)"); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "another program")
	})
	t.Run("no database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "not a database")
	})
	t.Run("no folder", func(t *testing.T) {
		refused(t, filepath.Join(t.TempDir(), "missing", "store.db"), "no such file")
	})
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want one that says %q", err, want)
	}
}

// A row that other hands changed is an error, not a key with guessed rights.
func TestTamperedRowsAreErrors(t *testing.T) {
	for _, statement := range []string{
		`UPDATE keys SET roles = '["root"]'`,
		`UPDATE keys SET roles = '{}'`,
	} {
		path := filepath.Join(t.TempDir(), "store.db")
		s := open(t, path)
		if err := s.InsertKey(t.Context(), sampleKey("ak_1")); err != nil {
			t.Fatal(err)
		}
		if _, err := raw(t, path).Exec(statement); err != nil {
			t.Fatal(err)
		}
		if key, err := s.Key(t.Context(), "ak_1"); err == nil {
			t.Errorf("%s: got key %+v", statement, key)
		}
		if keys, err := s.Keys(t.Context()); err == nil {
			t.Errorf("%s: got keys %+v", statement, keys)
		}
	}
}

func TestManyWritersAndReaders(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	const writers, each = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				id := fmt.Sprintf("ak_%d_%d", w, i)
				if err := s.InsertKey(t.Context(), sampleKey(id)); err != nil {
					t.Error(err)
				}
				if err := s.RevokeKey(t.Context(), id, time.Now()); err != nil {
					t.Error(err)
				}
				if key, err := s.Key(t.Context(), id); err != nil || key.Revoked.IsZero() {
					t.Errorf("key %s: %v, revoked %v", id, err, key.Revoked)
				}
			}
		})
	}
	group.Wait()
	if keys, err := s.Keys(t.Context()); err != nil || len(keys) != writers*each {
		t.Errorf("%d keys, %v; want %d", len(keys), err, writers*each)
	}
}

func TestContextEndsAWait(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.InsertKey(ctx, sampleKey("ak_1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
}

func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func BenchmarkKey(b *testing.B) {
	s, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "store.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.InsertKey(b.Context(), sampleKey("ak_1")); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Key(b.Context(), "ak_1"); err != nil {
			b.Fatal(err)
		}
	}
}
