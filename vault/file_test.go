package vault_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

func fileLender(t *testing.T, text string) (*world, *vault.File) {
	t.Helper()
	w := &world{journal: &journal{}, log: new(bytes.Buffer)}
	lender, err := vault.NewFile(vault.FileConfig{Path: file(t, text), Record: w.record, Logger: slog.New(slog.NewTextHandler(w, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return w, lender
}

func TestFileLendsWhatItHolds(t *testing.T) {
	for name, text := range map[string]string{
		"yaml": "db:\n  username: me\n  password: file-secret\napi: {token: file-secret}\n",
		"json": `{"db": {"username": "me", "password": "file-secret"}, "api": {"token": "file-secret"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			w, lender := fileLender(t, text)
			lent, err := lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile), kv("api", "plain", execution.InjectEgress)))
			if err != nil || len(lent.Leases) != 1 || lent.Exposed[0].Fields["password"].Reveal() != "file-secret" {
				t.Fatalf("%+v, %v", lent, err)
			}
			want := execution.Lease{Tool: "db", ID: "file/db", Expires: lent.Leases[0].Expires, Exposed: true, Unleased: true}
			if diff := cmp.Diff(want, lent.Leases[0]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			fields, lease, err := lender.Value(t.Context(), "ex_1", "api")
			if err != nil || fields["token"].Reveal() != "file-secret" || !lease.Unleased || lease.Exposed {
				t.Errorf("%+v, %v", lease, err)
			}
			leases, err := lender.Revoke(t.Context(), "ex_1")
			if err != nil || len(leases) != 2 || leases[0].Revoked || leases[1].Revoked {
				t.Errorf("%+v, %v", leases, err)
			}
			_, _, err = lender.Value(t.Context(), "ex_1", "api")
			wantError(t, err, execution.KindDenied, vault.CodeNotLent)
			if diff := cmp.Diff([]string{"lease_issued db", "lease_issued api"}, w.told()); diff != "" || !w.records[0].Lease.Unleased {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.Contains(w.logged(), "CREDENTIALS COME FROM A FILE") || strings.Contains(w.logged(), "file-secret") {
				t.Errorf("the log says %s", w.logged())
			}
		})
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no map": "file-secret", "no fields": "db: {}", "a list": "db: [file-secret]", "deep": "db: {a: {b: file-secret}}", "broken": "db: {file-secret",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := vault.NewFile(vault.FileConfig{Path: file(t, text), Record: (&world{}).record, Logger: discard})
			if err == nil || strings.Contains(err.Error(), "file-secret") {
				t.Errorf("got %v", err)
			}
		})
	}
	path := file(t, "db: {a: b}")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.NewFile(vault.FileConfig{Path: path, Record: (&world{}).record, Logger: discard}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("one that others can read: %v", err)
	}
}

func TestFileRefusesAsVaultDoes(t *testing.T) {
	w, lender := fileLender(t, "api: {token: file-secret}")
	_, err := lender.Lend(t.Context(), loanOf("ex_0", database(execution.InjectFile)))
	wantError(t, err, execution.KindDenied, vault.CodeNotLent)

	c := kv("api", "plain", execution.InjectEgress)
	c.MaxUses = 3
	loan, short := loanOf("ex_1", c), loanOf("ex_short", c)
	short.Lasts = 500 * time.Millisecond
	for _, l := range []execution.Loan{loan, short} {
		if _, err := lender.Lend(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	var used atomic.Int64
	for range 20 {
		group.Go(func() {
			if _, _, err := lender.Value(t.Context(), "ex_1", "api"); err == nil {
				used.Add(1)
			}
		})
	}
	group.Wait()
	if used.Load() != 3 || len(w.told()) != 1 {
		t.Errorf("used %d times, recorded %q", used.Load(), w.told())
	}
	within(t, patience, "expired", func() bool {
		_, _, err = lender.Value(t.Context(), "ex_short", "api")
		e, ok := errors.AsType[*execution.Error](err)
		return ok && e.Code == vault.CodeExpired
	})
	w.refuse = func(execution.Record) error {
		return &execution.Error{Kind: execution.KindUnavailable, Code: "audit_unavailable"}
	}
	_, err = lender.Lend(t.Context(), loanOf("ex_2", kv("api", "plain", execution.InjectEnv)))
	wantError(t, err, execution.KindUnavailable, "audit_unavailable")
}
