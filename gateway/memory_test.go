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

// memory is gateway.Executions without a disk.
type memory struct {
	mu   sync.Mutex
	rows map[string]gateway.Stored
	fail func(doing string) error // nil: never
}

func (m *memory) over(row gateway.Stored) bool {
	return row.State != "reserved" && row.State != "queued" && row.State != "running"
}

// lock locks, unless doing is to fail.
func (m *memory) lock(doing string) (unlock func(), err error) {
	m.mu.Lock()
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		if err := fail(doing); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	if m.rows == nil {
		m.rows = map[string]gateway.Stored{}
	}
	return m.mu.Unlock, nil
}

func (m *memory) failing(fail func(doing string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

func (m *memory) Claim(_ context.Context, want gateway.Stored) (gateway.Stored, error) {
	unlock, err := m.lock("claim")
	if err != nil {
		return gateway.Stored{}, err
	}
	defer unlock()
	for id, row := range m.rows {
		if want.Key == "" || row.Key != want.Key || row.Tenant != want.Tenant || row.Subject != want.Subject {
			continue
		}
		if !m.over(row) || row.Expires.After(time.Now()) {
			row.Body = nil
			return row, nil
		}
		delete(m.rows, id)
	}
	want.State = "reserved"
	m.rows[want.ID] = want
	return want, nil
}

func (m *memory) Release(_ context.Context, id string) error {
	unlock, err := m.lock("release")
	if err != nil {
		return err
	}
	defer unlock()
	if m.rows[id].State == "reserved" {
		delete(m.rows, id)
	}
	return nil
}

func (m *memory) Save(_ context.Context, now gateway.Stored) error {
	unlock, err := m.lock("save " + now.State)
	if err != nil {
		return err
	}
	defer unlock()
	row, ok := m.rows[now.ID]
	if !ok || m.over(row) {
		return &execution.Error{Kind: execution.KindNotFound}
	}
	row.State, row.Body, row.Events, row.Expires = now.State, now.Body, now.Events, now.Expires
	m.rows[now.ID] = row
	return nil
}

func (m *memory) Load(_ context.Context, id string) (gateway.Stored, error) {
	unlock, err := m.lock("load")
	if err != nil {
		return gateway.Stored{}, err
	}
	defer unlock()
	row, ok := m.rows[id]
	if !ok || m.over(row) && !row.Expires.After(time.Now()) {
		return gateway.Stored{}, &execution.Error{Kind: execution.KindNotFound, Code: "execution_not_found", Detail: "there is no such execution"}
	}
	return row, nil
}

func (m *memory) Sweep(context.Context) error {
	unlock, err := m.lock("sweep")
	if err != nil {
		return err
	}
	defer unlock()
	for id, row := range m.rows {
		if m.over(row) && !row.Expires.After(time.Now()) {
			delete(m.rows, id)
		}
	}
	return nil
}

func (m *memory) Recover(_ context.Context, lost map[string][]byte, expires time.Time) error {
	unlock, err := m.lock("recover")
	if err != nil {
		return err
	}
	defer unlock()
	for id, row := range m.rows {
		body, decided := lost[id]
		switch {
		case m.over(row):
			continue
		case row.State == "reserved" && !decided:
			delete(m.rows, id)
			continue
		case row.State == "reserved":
			row.Body = body
		}
		row.State, row.Expires = "ended", expires
		m.rows[id] = row
	}
	return nil
}

// kept is the store's executions in the gateway's words.
type kept struct{ *store.Executions }

func (k kept) Claim(ctx context.Context, want gateway.Stored) (gateway.Stored, error) {
	held, err := k.Executions.Claim(ctx, store.Execution(want))
	return gateway.Stored(held), err
}

func (k kept) Save(ctx context.Context, now gateway.Stored) error {
	return k.Executions.Save(ctx, store.Execution(now))
}

func (k kept) Load(ctx context.Context, id string) (gateway.Stored, error) {
	found, err := k.Executions.Load(ctx, id)
	return gateway.Stored(found), err
}

func onDisk(t testing.TB, path string) gateway.Executions {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	return kept{e}
}

// The contract of Executions, of the one that tests use and of the one on disk.
func TestExecutionsContract(t *testing.T) {
	for name, e := range map[string]gateway.Executions{
		"memory": &memory{}, "disk": onDisk(t, filepath.Join(t.TempDir(), "store.db")),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			row := gateway.Stored{ID: "ex_1", Tenant: "acme", Subject: "ak_1", Key: "k", RequestSHA256: "aa", Expires: time.Now().Add(time.Hour)}
			claim := func(id, subject, key string) gateway.Stored {
				want := row
				want.ID, want.Subject, want.Key = id, subject, key
				held, err := e.Claim(ctx, want)
				if err != nil {
					t.Fatal(err)
				}
				return held
			}
			state := func(id string) string {
				found, err := e.Load(ctx, id)
				if execution.KindOf(err) == execution.KindNotFound {
					return ""
				} else if err != nil {
					t.Fatal(err)
				}
				return found.State + " " + string(found.Body)
			}
			save := func(id, state, body string, expires time.Time) error {
				return e.Save(ctx, gateway.Stored{ID: id, State: state, Body: []byte(body), Events: 1, Expires: expires})
			}
			claim("ex_1", "ak_1", "k")
			if held := claim("ex_2", "ak_1", "k"); held.ID != "ex_1" || held.State != "reserved" || held.RequestSHA256 != "aa" {
				t.Errorf("held %+v", held)
			}
			if held := claim("ex_3", "ak_2", "k"); held.ID != "ex_3" {
				t.Errorf("held %+v", held)
			}
			if err := e.Release(ctx, "ex_3"); err != nil || state("ex_3") != "" {
				t.Errorf("released: %v, %q", err, state("ex_3"))
			}
			if err := save("ex_1", "queued", "lost", row.Expires); err != nil || e.Release(ctx, "ex_1") != nil || state("ex_1") != "queued lost" {
				t.Errorf("%v, %q", err, state("ex_1"))
			}
			if err := save("ex_1", "ended", "done", row.Expires); err != nil || state("ex_1") != "ended done" {
				t.Errorf("%v, %q", err, state("ex_1"))
			}
			if err := save("ex_1", "running", "", row.Expires); err == nil {
				t.Error("what is over goes on")
			}
			claim("ex_old", "ak_1", "old")
			if err := save("ex_old", "denied", "", time.Now().Add(-time.Second)); err != nil || state("ex_old") != "" {
				t.Errorf("%v, %q", err, state("ex_old"))
			}
			if held := claim("ex_fresh", "ak_1", "old"); held.ID != "ex_fresh" {
				t.Errorf("a key that has expired is held by %+v", held)
			}
			claim("ex_decided", "ak_1", "")
			claim("ex_queued", "ak_1", "")
			if err := save("ex_queued", "queued", "lost", row.Expires); err != nil {
				t.Error(err)
			}
			if err := e.Recover(ctx, map[string][]byte{"ex_decided": []byte("crash"), "ex_queued": []byte("no")}, row.Expires); err != nil {
				t.Error(err)
			}
			for id, want := range map[string]string{"ex_1": "ended done", "ex_fresh": "", "ex_decided": "ended crash", "ex_queued": "ended lost"} {
				if state(id) != want {
					t.Errorf("%s is %q, want %q", id, state(id), want)
				}
			}
			if err := e.Sweep(ctx); err != nil || state("ex_1") != "ended done" {
				t.Errorf("%v, %q", err, state("ex_1"))
			}
		})
	}
}
