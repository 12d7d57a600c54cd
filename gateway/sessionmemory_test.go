package gateway_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// sessionMemory is gateway.Sessions without a disk.
type sessionMemory struct {
	mu   sync.Mutex
	rows map[string]gateway.StoredSession
	fail error // of every change
}

func (m *sessionMemory) change(do func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		m.rows = map[string]gateway.StoredSession{}
	}
	if m.fail == nil {
		do()
	}
	return m.fail
}

func (m *sessionMemory) Add(_ context.Context, s gateway.StoredSession) error {
	return m.change(func() { m.rows[s.ID] = s })
}

func (m *sessionMemory) Remove(_ context.Context, id string) error {
	return m.change(func() {
		if m.rows[id].Ended == "" {
			delete(m.rows, id)
		}
	})
}

func (m *sessionMemory) End(_ context.Context, id string, why execution.SessionEnd, expires time.Time) error {
	return m.change(func() {
		if s, ok := m.rows[id]; ok && s.Ended == "" {
			s.Ended, s.Expires = why, expires
			m.rows[id] = s
		}
	})
}

func (m *sessionMemory) Load(_ context.Context, id string) (gateway.StoredSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.rows[id]
	if !ok || s.Ended != "" && !s.Expires.After(time.Now()) {
		return gateway.StoredSession{}, &execution.Error{Kind: execution.KindNotFound}
	}
	return s, nil
}

func (m *sessionMemory) Left(context.Context) (left []gateway.StoredSession, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.rows {
		if s.Ended == "" {
			left = append(left, s)
		}
	}
	return left, nil
}

func (m *sessionMemory) Sweep(context.Context) error {
	return m.change(func() {
		for id, s := range m.rows {
			if s.Ended != "" && !s.Expires.After(time.Now()) {
				delete(m.rows, id)
			}
		}
	})
}

// keptSessions is the store's sessions in the gateway's words.
type keptSessions struct{ *store.Sessions }

func (k keptSessions) Add(ctx context.Context, s gateway.StoredSession) error {
	return k.Sessions.Add(ctx, store.Session(s))
}

func (k keptSessions) Load(ctx context.Context, id string) (gateway.StoredSession, error) {
	s, err := k.Sessions.Load(ctx, id)
	return gateway.StoredSession(s), err
}

func (k keptSessions) Left(ctx context.Context) ([]gateway.StoredSession, error) {
	left, err := k.Sessions.Left(ctx)
	var out []gateway.StoredSession
	for _, s := range left {
		out = append(out, gateway.StoredSession(s))
	}
	return out, err
}

// The contract of gateway.Sessions holds for what stands in for the store in these
// tests, and for the store.
func TestSessionsContract(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	onDisk, err := store.NewSessions(db)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]gateway.Sessions{"memory": &sessionMemory{}, "disk": keptSessions{onDisk}} {
		t.Run(name, func(t *testing.T) {
			row := func(id string) gateway.StoredSession {
				return gateway.StoredSession{ID: id, Owner: caller(), Created: time.Now(), Expires: time.Now().Add(-time.Hour)}
			}
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{"se_open", "se_ended", "se_old", "se_undone"} {
				check(s.Add(t.Context(), row(id)))
			}
			check(s.End(t.Context(), "se_ended", execution.SessionIdle, time.Now().Add(time.Hour)))
			check(s.End(t.Context(), "se_ended", execution.SessionCrashed, time.Now().Add(-time.Hour)))
			check(s.End(t.Context(), "se_old", execution.SessionIdle, time.Now().Add(-time.Hour)))
			check(s.End(t.Context(), "se_unknown", execution.SessionIdle, time.Now().Add(time.Hour)))
			check(s.Remove(t.Context(), "se_undone"))
			check(s.Remove(t.Context(), "se_ended"))
			check(s.Sweep(t.Context()))
			for id, want := range map[string]execution.SessionEnd{"se_open": "", "se_ended": execution.SessionIdle} {
				if got, err := s.Load(t.Context(), id); err != nil || got.Ended != want || got.Owner.Subject != caller().Subject || !got.Owner.Has(execution.RoleCaller) {
					t.Errorf("%s: %+v, %v", id, got, err)
				}
			}
			for _, id := range []string{"se_old", "se_undone", "se_unknown"} {
				if _, err := s.Load(t.Context(), id); execution.KindOf(err) != execution.KindNotFound {
					t.Errorf("%s: %v", id, err)
				}
			}
			if left, err := s.Left(t.Context()); err != nil || len(left) != 1 || left[0].ID != "se_open" {
				t.Errorf("left %+v, %v", left, err)
			}
		})
	}
}
