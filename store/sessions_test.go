package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func sessionsIn(t *testing.T, s *store.Store) *store.Sessions {
	t.Helper()
	sessions, err := store.NewSessions(s)
	if err != nil {
		t.Fatal(err)
	}
	return sessions
}

func sampleSession(id string) store.Session {
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	return store.Session{
		ID: id, Created: now, Expires: now.Add(time.Hour),
		Owner: execution.Principal{Tenant: "acme", Subject: "ak_1", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey},
	}
}

func addSession(t *testing.T, s *store.Sessions, added store.Session) {
	t.Helper()
	if err := s.Add(t.Context(), added); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSessionsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	first, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	sessions := sessionsIn(t, first)
	left, ended, undone := sampleSession("se_1"), sampleSession("se_2"), sampleSession("se_3")
	left.Owner.Roles = []execution.Role{}
	for _, s := range []store.Session{left, ended, undone} {
		addSession(t, sessions, s)
	}
	until := left.Expires.Add(time.Hour)
	if err := sessions.End(t.Context(), "se_2", execution.SessionIdle, until); err != nil {
		t.Fatal(err)
	}
	if err := sessions.Remove(t.Context(), "se_3"); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	sessions = sessionsIn(t, open(t, path))
	got, err := sessions.Left(t.Context())
	if diff := cmp.Diff([]store.Session{left}, got); diff != "" || err != nil {
		t.Errorf("error %v, left (-want +got):\n%s", err, diff)
	}
	ended.Ended, ended.Expires = execution.SessionIdle, until
	one, err := sessions.Load(t.Context(), "se_2")
	if diff := cmp.Diff(ended, one); diff != "" || err != nil {
		t.Errorf("error %v, ended (-want +got):\n%s", err, diff)
	}
	if _, err := sessions.Load(t.Context(), "se_3"); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("the one that was removed: %v", err)
	}
}

func TestFirstEndOfASessionCounts(t *testing.T) {
	s := sessionsIn(t, open(t, filepath.Join(t.TempDir(), "store.db")))
	addSession(t, s, sampleSession("se_1"))
	for _, why := range []execution.SessionEnd{execution.SessionDeleted, execution.SessionCrashed} {
		if err := s.End(t.Context(), "se_1", why, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), "se_1"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(t.Context(), "se_1"); err != nil || got.Ended != execution.SessionDeleted {
		t.Errorf("ended as %q, %v", got.Ended, err)
	}
	if err := s.End(t.Context(), "se_2", execution.SessionDeleted, time.Now()); err != nil {
		t.Errorf("the end of one that is not there: %v", err)
	}
}

// An open session is remembered however long it lasts; an ended one until it
// expires.
func TestEndedSessionsAreForgotten(t *testing.T) {
	s := sessionsIn(t, open(t, filepath.Join(t.TempDir(), "store.db")))
	long := sampleSession("se_1")
	long.Expires = time.Now().Add(-time.Hour)
	addSession(t, s, long)
	addSession(t, s, sampleSession("se_2"))
	if err := s.End(t.Context(), "se_2", execution.SessionIdle, time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, swept := range []bool{false, true} {
		if _, err := s.Load(t.Context(), "se_1"); err != nil {
			t.Errorf("swept %v: the open one: %v", swept, err)
		}
		if _, err := s.Load(t.Context(), "se_2"); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("swept %v: the expired one: %v", swept, err)
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever opens and closes without end does not fill the disk.
func TestEndedSessionsOfATenantAreBounded(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "store.db"))
	s := sessionsIn(t, db)
	began := time.Now()
	for i := range 1002 {
		one := sampleSession(fmt.Sprintf("se_%04d", i))
		one.Created = began.Add(time.Duration(i) * time.Millisecond)
		if i == 1001 {
			one.Owner.Tenant = "other"
		}
		addSession(t, s, one)
		if err := s.End(t.Context(), one.ID, execution.SessionDeleted, began.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]bool{"se_0000": false, "se_0001": true, "se_1000": true, "se_1001": true} {
		if _, err := s.Load(t.Context(), id); (err == nil) != want {
			t.Errorf("%s: %v, want it kept: %v", id, err, want)
		}
	}
}

// A database of the version before sessions is brought up to date, and keeps
// what it holds.
func TestSessionsComeToAnOlderDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	older, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := older.InsertKey(t.Context(), sampleKey("ak_1")); err != nil {
		t.Fatal(err)
	}
	if err := older.Close(); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	for _, statement := range []string{"DROP TABLE materials; DROP TABLE held_bytes; DROP TABLE leases; DROP TABLE inputs; DROP TABLE input_keys; DROP TABLE input_bytes; DROP TABLE input_documents; DROP TABLE input_losses", "DROP TABLE approvals", "DROP TABLE sessions", "PRAGMA user_version = 2"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	now := open(t, path)
	if key, err := now.Key(t.Context(), "ak_1"); err != nil || key.Tenant != "acme" {
		t.Errorf("the key is %+v, %v", key, err)
	}
	addSession(t, sessionsIn(t, now), sampleSession("se_1"))
	var version int
	if err := raw(t, path).QueryRow("PRAGMA user_version").Scan(&version); err != nil || version < 4 {
		t.Errorf("version %d, %v", version, err)
	}
}
