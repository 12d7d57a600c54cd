package store_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func executions(t *testing.T, path string, maxBytes int64) *store.Executions {
	t.Helper()
	e, err := store.NewExecutions(open(t, path), maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func sampleExecution(id, key string) store.Execution {
	return store.Execution{
		ID: id, Tenant: "acme", Subject: "ak_1", Key: key, RequestSHA256: "aa",
		Expires: time.UnixMilli(time.Now().Add(time.Hour).UnixMilli()).UTC(),
	}
}

// claim claims and saves in one go.
func claim(t *testing.T, e *store.Executions, want store.Execution, state string, body []byte) {
	t.Helper()
	held, err := e.Claim(t.Context(), want)
	if err != nil || held.ID != want.ID || held.State != store.StateReserved {
		t.Fatalf("claim of %s: %+v, %v", want.ID, held, err)
	}
	if state == store.StateReserved {
		return
	}
	held.State, held.Body, held.Events = state, body, 3
	if err := e.Save(t.Context(), held); err != nil {
		t.Fatal(err)
	}
}

func TestExecutionsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := sampleExecution("ex_1", "k")
	claim(t, e, want, store.StateEnded, []byte(`{"a":1}`))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want.State, want.Body, want.Events = store.StateEnded, []byte(`{"a":1}`), 3
	got, err := executions(t, path, 0).Load(t.Context(), "ex_1")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAKeyIsHeldByOneExecution(t *testing.T) {
	e := executions(t, filepath.Join(t.TempDir(), "store.db"), 0)
	var group sync.WaitGroup
	holders := make([]string, 16)
	for i := range holders {
		group.Go(func() {
			held, err := e.Claim(t.Context(), sampleExecution(fmt.Sprintf("ex_%d", i), "k"))
			if err != nil {
				t.Error(err)
			}
			holders[i] = held.ID
		})
	}
	group.Wait()
	for _, id := range holders {
		if id != holders[0] {
			t.Fatalf("several hold the key: %v", holders)
		}
	}
	for name, other := range map[string]store.Execution{
		"another subject": {ID: "ex_a", Tenant: "acme", Subject: "ak_2", Key: "k"},
		"another tenant":  {ID: "ex_b", Tenant: "other", Subject: "ak_1", Key: "k"},
		"no key":          {ID: "ex_c", Tenant: "acme", Subject: "ak_1"},
		"no key again":    {ID: "ex_d", Tenant: "acme", Subject: "ak_1"},
	} {
		if held, err := e.Claim(t.Context(), other); err != nil || held.ID != other.ID {
			t.Errorf("%s: %+v, %v", name, held, err)
		}
	}
	// Released, it is free again; past reservation, it is not.
	if err := e.Release(t.Context(), holders[0]); err != nil {
		t.Fatal(err)
	}
	claim(t, e, sampleExecution("ex_new", "k"), store.StateRunning, nil)
	if err := e.Release(t.Context(), "ex_new"); err != nil {
		t.Fatal(err)
	}
	if held, err := e.Claim(t.Context(), sampleExecution("ex_x", "k")); err != nil || held.ID != "ex_new" || held.State != store.StateRunning {
		t.Errorf("%+v, %v", held, err)
	}
}

func TestWhatHasExpiredIsGone(t *testing.T) {
	e := executions(t, filepath.Join(t.TempDir(), "store.db"), 0)
	over := sampleExecution("ex_over", "k")
	over.Expires = time.Now().Add(-time.Second)
	claim(t, e, over, store.StateEnded, []byte("x"))
	running := sampleExecution("ex_running", "k2")
	running.Expires = over.Expires
	claim(t, e, running, store.StateRunning, []byte("x"))
	for range 2 { // before it is swept, and after
		if _, err := e.Load(t.Context(), "ex_over"); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%v, want not_found", err)
		}
		if _, err := e.Load(t.Context(), "ex_running"); err != nil {
			t.Errorf("what runs does not expire: %v", err)
		}
		if err := e.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	claim(t, e, sampleExecution("ex_next", "k"), store.StateReserved, nil)
	if err := e.Save(t.Context(), over); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("saving what is gone: %v", err)
	}
}

func TestFinalStatesStay(t *testing.T) {
	e := executions(t, filepath.Join(t.TempDir(), "store.db"), 0)
	first := sampleExecution("ex_1", "")
	claim(t, e, first, store.StateEnded, []byte("first"))
	first.State = store.StateRunning
	if err := e.Save(t.Context(), first); err == nil {
		t.Error("what has ended runs again")
	}
	if got, err := e.Load(t.Context(), "ex_1"); err != nil || got.State != store.StateEnded || string(got.Body) != "first" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBytesAreBounded(t *testing.T) {
	e := executions(t, filepath.Join(t.TempDir(), "store.db"), 64<<10)
	state := func(id string) string {
		got, err := e.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if (got.State == store.StateExpired) != (got.Body == nil) {
			t.Errorf("%s is %s with %d bytes", id, got.State, len(got.Body))
		}
		return got.State
	}
	quiet := sampleExecution("ex_quiet", "quiet")
	quiet.Tenant = "quiet"
	claim(t, e, quiet, store.StateEnded, make([]byte, 8<<10))
	for i := range 10 {
		claim(t, e, sampleExecution(fmt.Sprintf("ex_%d", i), fmt.Sprintf("k%d", i)), store.StateEnded, make([]byte, 16<<10))
	}
	if state("ex_quiet") != store.StateEnded || state("ex_0") != store.StateExpired || state("ex_9") != store.StateEnded {
		t.Errorf("quiet %s, first %s, last %s", state("ex_quiet"), state("ex_0"), state("ex_9"))
	}
	// A body that is forgotten is not a key that is free.
	if held, err := e.Claim(t.Context(), sampleExecution("ex_again", "k0")); err != nil || held.ID != "ex_0" || held.State != store.StateExpired {
		t.Errorf("%+v, %v", held, err)
	}
	claim(t, e, sampleExecution("ex_big", ""), store.StateEnded, make([]byte, 65<<10))
	if state("ex_big") != store.StateExpired {
		t.Error("a body above the whole bound is kept")
	}
	// In the end nothing is left to give up, and what is new is refused.
	var err error
	for i := 0; err == nil && i < 200; i++ {
		_, err = e.Claim(t.Context(), sampleExecution(fmt.Sprintf("ex_flood_%d", i), ""))
	}
	if execution.KindOf(err) != execution.KindSaturated {
		t.Errorf("%v, want saturated", err)
	}
	if err := e.Recover(t.Context(), nil, time.Now()); err != nil { // which forgets the reserved
		t.Fatal(err)
	}
	claim(t, e, sampleExecution("ex_after", ""), store.StateEnded, nil)
}

func TestRecover(t *testing.T) {
	e := executions(t, filepath.Join(t.TempDir(), "store.db"), 0)
	for _, state := range []string{store.StateReserved, store.StateQueued, store.StateRunning, store.StateEnded, store.StateFailed, store.StateDenied} {
		claim(t, e, sampleExecution("ex_"+state, ""), state, []byte(state))
	}
	claim(t, e, sampleExecution("ex_decided", "k"), store.StateReserved, nil)
	lost := map[string][]byte{"ex_decided": []byte("crash"), "ex_running": []byte("not this"), "ex_unheard": []byte("of")}
	if err := e.Recover(t.Context(), lost, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]struct{ state, body string }{
		"ex_queued": {"ended", "queued"}, "ex_running": {"ended", "running"}, "ex_decided": {"ended", "crash"},
		"ex_ended": {"ended", "ended"}, "ex_failed": {"failed", "failed"}, "ex_denied": {"denied", "denied"},
	} {
		if got, err := e.Load(t.Context(), id); err != nil || got.State != want.state || string(got.Body) != want.body {
			t.Errorf("%s: %+v, %v; want %+v", id, got, err, want)
		}
	}
	for _, id := range []string{"ex_reserved", "ex_unheard"} {
		if _, err := e.Load(t.Context(), id); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestOlderDatabasesAreBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.InsertKey(t.Context(), sampleKey("ak_1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Back to version 1.
	if _, err := raw(t, path).Exec("DROP TABLE materials; DROP TABLE held_bytes; DROP TABLE leases; DROP TABLE inputs; DROP TABLE input_keys; DROP TABLE input_bytes; DROP TABLE input_documents; DROP TABLE input_losses; DROP TABLE approvals; DROP TABLE sessions; DROP TABLE executions; DROP TABLE execution_bytes; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if _, err := s.Key(t.Context(), "ak_1"); err != nil {
		t.Errorf("the key is lost: %v", err)
	}
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte{0, 255}, 1000)
	claim(t, e, sampleExecution("ex_1", ""), store.StateEnded, body)
	if got, err := e.Load(t.Context(), "ex_1"); err != nil || !bytes.Equal(got.Body, body) {
		t.Errorf("%v", err)
	}
}

func TestNewExecutionsRefusesTheUnsafe(t *testing.T) {
	if _, err := store.NewExecutions(nil, 1); err == nil {
		t.Error("no store")
	}
	if _, err := store.NewExecutions(open(t, filepath.Join(t.TempDir(), "store.db")), -1); err == nil {
		t.Error("no bound")
	}
}
