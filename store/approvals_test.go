package store_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func approvalsIn(t *testing.T, s *store.Store, keyFile string) *store.Approvals {
	t.Helper()
	a, err := store.NewApprovals(store.ApprovalsConfig{Store: s, KeyFile: keyFile, MaxPending: 3, MaxBytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// awaiting adds an approval, and the execution that awaits it.
func awaiting(t *testing.T, s *store.Store, a *store.Approvals, n int) (store.Approval, error) {
	t.Helper()
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("ex_%d", n)
	if _, err := e.Claim(t.Context(), sampleExecution(id, "")); err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	added := store.Approval{
		ID: fmt.Sprintf("ap_%d", n), Execution: id, Tenant: "acme", Subject: "ak_1", State: execution.ApprovalPending,
		About: []byte(`{"x":1}`), Request: []byte("print('the plain request')"), Created: now, Expires: now.Add(time.Hour),
	}
	return added, a.Add(t.Context(), added, []byte("awaits"))
}

func settled(a store.Approval, state execution.ApprovalState) store.Approval {
	a.State, a.Request, a.By, a.At, a.Forget = state, nil, "ak_2", a.Created.Add(time.Second), a.Created.Add(time.Hour)
	return a
}

func TestApprovalOutlivesTheProcessAndIsEncrypted(t *testing.T) {
	dir := t.TempDir()
	path, keyFile := filepath.Join(dir, "store.db"), filepath.Join(dir, "approvals.key")
	first, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := awaiting(t, first, approvalsIn(t, first, keyFile), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if content, err := os.ReadFile(path); err != nil || bytes.Contains(content, []byte("the plain request")) {
		t.Errorf("the request stands in the database as it is, %v", err)
	}

	s := open(t, path)
	a := approvalsIn(t, s, keyFile)
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Recover(t.Context(), map[string][]byte{"ex_2": nil}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Load(t.Context(), "ex_1"); err != nil || got.State != store.StateAwaiting || string(got.Body) != "awaits" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := a.Load(t.Context(), "ap_1"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	// What the log holds open had been decided anew: it has ended.
	if err := e.Recover(t.Context(), map[string][]byte{"ex_1": []byte("crashed")}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Load(t.Context(), "ex_1"); err != nil || got.State != store.StateEnded || string(got.Body) != "crashed" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Another key, another row, another deadline: none of them opens.
func TestApprovalOpensOnlyAsItWas(t *testing.T) {
	for name, change := range map[string]string{
		"deadline": "UPDATE approvals SET expires_ms = expires_ms + 1 WHERE id = 'ap_1'",
		"owner":    "UPDATE approvals SET subject = 'ak_9' WHERE id = 'ap_1'",
		"tenant":   "UPDATE approvals SET tenant = 'other' WHERE id = 'ap_1'",
		"swapped":  "UPDATE approvals SET sealed = (SELECT sealed FROM approvals WHERE id = 'ap_2') WHERE id = 'ap_1'",
		"short":    "UPDATE approvals SET sealed = x'00' WHERE id = 'ap_1'",
		"key":      "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, filepath.Join(dir, "store.db"))
			a := approvalsIn(t, s, filepath.Join(dir, "one.key"))
			for n := range 2 {
				if _, err := awaiting(t, s, a, n+1); err != nil {
					t.Fatal(err)
				}
			}
			if change == "" {
				a = approvalsIn(t, s, filepath.Join(dir, "two.key"))
			} else if _, err := raw(t, filepath.Join(dir, "store.db")).Exec(change); err != nil {
				t.Fatal(err)
			}
			if got, err := a.Load(t.Context(), "ap_1"); execution.KindOf(err) != execution.KindGone || got.Request != nil || got.ID != "ap_1" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestApprovalIsSettledOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store.db"))
	a := approvalsIn(t, s, filepath.Join(dir, "approvals.key"))
	added, err := awaiting(t, s, a, 1)
	if err != nil {
		t.Fatal(err)
	}
	var won, lost int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			err := a.Settle(t.Context(), settled(added, execution.ApprovalApproved), nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if execution.KindOf(err) == execution.KindConflict {
				lost++
			}
		})
	}
	if all.Wait(); won != 1 || lost != 19 {
		t.Errorf("%d succeeded and %d failed", won, lost)
	}
	got, err := a.Load(t.Context(), "ap_1")
	if want := settled(added, execution.ApprovalApproved); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if left, err := a.Interrupted(t.Context()); err != nil || len(left) != 1 || left[0].ID != "ap_1" {
		t.Errorf("%+v, %v", left, err)
	}
	for state, want := range map[execution.ApprovalState]execution.Kind{
		execution.ApprovalDenied: execution.KindConflict, execution.ApprovalExpired: execution.KindConflict,
	} {
		if err := a.Settle(t.Context(), settled(added, state), nil); execution.KindOf(err) != want {
			t.Errorf("%s: %v", state, err)
		}
	}
	end := sampleExecution("ex_1", "")
	end.State, end.Body = store.StateDenied, []byte("problem")
	if err := a.Settle(t.Context(), settled(added, execution.ApprovalVoided), &end); err != nil {
		t.Error(err)
	}
	e, err := store.NewExecutions(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Load(t.Context(), "ex_1"); err != nil || got.State != store.StateDenied || string(got.Body) != "problem" {
		t.Errorf("%+v, %v", got, err)
	}
	if left, err := a.Interrupted(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestApprovalPastItsTimeIsNotApproved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store.db"))
	a := approvalsIn(t, s, filepath.Join(dir, "approvals.key"))
	added, err := awaiting(t, s, a, 1)
	if err != nil {
		t.Fatal(err)
	}
	late := settled(added, execution.ApprovalApproved)
	late.At = added.Expires
	if err := a.Settle(t.Context(), late, nil); execution.KindOf(err) != execution.KindConflict {
		t.Errorf("%v", err)
	}
	due, next, err := a.Overdue(t.Context(), added.Expires.Add(-time.Millisecond), 10)
	if err != nil || len(due) != 0 || !next.Equal(added.Expires) {
		t.Errorf("%+v, %v, %v", due, next, err)
	}
	if due, _, err = a.Overdue(t.Context(), added.Expires, 10); err != nil || len(due) != 1 {
		t.Errorf("%+v, %v", due, err)
	}
}

// One tenant's flood is its own.
func TestPendingApprovalsAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store.db"))
	a := approvalsIn(t, s, filepath.Join(dir, "approvals.key"))
	for n := range 4 {
		_, err := awaiting(t, s, a, n)
		if n < 3 && err != nil || n == 3 && execution.KindOf(err) != execution.KindSaturated {
			t.Errorf("%d: %v", n, err)
		}
	}
	list, err := a.List(t.Context(), store.ApprovalQuery{Tenant: "acme", State: execution.ApprovalPending, After: "ap_0", Most: 1})
	if err != nil || len(list) != 1 || list[0].ID != "ap_1" || list[0].Request != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = a.List(t.Context(), store.ApprovalQuery{Tenant: "other", Most: 10}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := a.Load(t.Context(), "ap_3"); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("what was refused is there: %v", err)
	}
}

func TestNewApprovalsRefusesTheUnsafe(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store.db"))
	for name, content := range map[string]string{"short": "x", "long": string(make([]byte, 33))} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.NewApprovals(store.ApprovalsConfig{Store: s, KeyFile: path}); err == nil {
			t.Errorf("a key that is %s", name)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, make([]byte, 32), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]store.ApprovalsConfig{
		"no store": {KeyFile: filepath.Join(dir, "k")}, "no key": {Store: s}, "readable": {Store: s, KeyFile: open},
	} {
		if _, err := store.NewApprovals(config); err == nil {
			t.Error(name)
		}
	}
}

// Of an approval that is voided for an erasure no file has the request, also encrypted;
// and only what is pending and selected is to be voided.
func TestErasedApprovalsAreNowhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	a := approvalsIn(t, s, filepath.Join(dir, "approvals.key"))
	first, err := awaiting(t, s, a, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := awaiting(t, s, a, 2); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	var sealed []byte
	if err := db.QueryRowContext(t.Context(), "SELECT sealed FROM approvals WHERE id = 'ap_1'").Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	holds := func() (found bool) {
		for _, suffix := range []string{"", "-wal"} {
			if content, err := os.ReadFile(path + suffix); err == nil && bytes.Contains(content, sealed) {
				found = true
			}
		}
		return found
	}
	if len(sealed) == 0 || !holds() {
		t.Fatalf("%d bytes are kept nowhere", len(sealed))
	}
	selected := func(which store.Selection) (ids []string) {
		t.Helper()
		list, err := a.Selected(t.Context(), which)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range list {
			ids = append(ids, found.ID)
		}
		return ids
	}
	if err := a.Settle(t.Context(), settled(first, execution.ApprovalVoided), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Shred(t.Context()); err != nil || holds() {
		t.Errorf("it is still there, %v", err)
	}
	pending := []string{"ap_2"}
	for _, c := range []struct {
		which store.Selection
		want  []string
	}{
		{store.Selection{Tenant: "acme"}, pending}, {store.Selection{Tenant: "acme", Subject: "ak_1", Before: time.Now().Add(time.Hour)}, pending},
		{store.Selection{Execution: "ex_2"}, pending}, {store.Selection{Execution: "ex_1"}, nil}, {store.Selection{Tenant: "other"}, nil},
		{store.Selection{Tenant: "acme", Subject: "ak_2"}, nil}, {store.Selection{Before: first.Created.Add(-time.Hour)}, nil},
	} {
		if got := selected(c.which); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.which, got, c.want)
		}
	}
	if _, err := a.Selected(t.Context(), store.Selection{}); err == nil {
		t.Error("everything was selected")
	}
}
