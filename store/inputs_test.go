package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// inputsUnderTest are inputs in a database of their own.
type inputsUnderTest struct {
	*store.Inputs
	t             *testing.T
	db            *store.Store
	path, keyFile string
}

func newInputs(t *testing.T, change func(*store.InputsConfig)) *inputsUnderTest {
	t.Helper()
	dir := t.TempDir()
	u := &inputsUnderTest{t: t, path: filepath.Join(dir, "inputs.db"), keyFile: filepath.Join(dir, "inputs.key")}
	var err error
	if u.db, err = store.Open(t.Context(), u.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.db.Close() })
	config := store.InputsConfig{Store: u.db, KeyFile: u.keyFile, WriteTimeout: 3 * time.Minute}
	if change != nil {
		change(&config)
	}
	if u.Inputs, err = store.NewInputs(config); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *inputsUnderTest) flush() {
	u.t.Helper()
	if err := u.Flush(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
}

// opened opens everything as another process would.
func (u *inputsUnderTest) opened() (inputs []store.Input, failures map[string]int) {
	u.t.Helper()
	r, err := store.OpenInputs(u.t.Context(), u.path, u.keyFile)
	if err != nil {
		u.t.Fatal(err)
	}
	defer r.Close()
	groups, err := r.Groups(u.t.Context(), always)
	if err != nil {
		u.t.Fatal(err)
	}
	failures = map[string]int{}
	for _, g := range groups {
		var n int64
		if err := r.Each(u.t.Context(), g, always, func(sealed *store.SealedInput) error {
			n++
			in, err := sealed.Open(u.t.Context())
			if e, ok := errors.AsType[*execution.Error](err); ok {
				failures[e.Code]++
				return nil
			}
			inputs = append(inputs, in)
			return err
		}); err != nil {
			u.t.Fatal(err)
		}
		if n != g.Count {
			u.t.Errorf("the group %+v has %d inputs", g, n)
		}
	}
	return inputs, failures
}

var always = store.Span{Until: time.Now().Add(time.Hour)}

func sampleInput(n int, tenant string) store.Input {
	in := store.Input{
		Execution: fmt.Sprintf("ex_%d", n), Seq: uint64(n), Tenant: tenant, Subject: fmt.Sprintf("ak_%d", n), Time: time.UnixMilli(time.Now().UnixMilli()).UTC(),
		Revisions: store.Revisions{Organisation: "sha256:org", Terms: "sha256:terms"},
		Asked:     []byte(`{"the plain":"question"}`), Answered: []byte(`{"the plain":"answer"}`),
		Documents: []store.Document{
			{Kind: store.DocumentBundle, Digest: "sha256:org", Content: []byte("the plain bundle")},
			{Kind: store.DocumentTerms, Digest: "sha256:terms", Content: []byte("the plain terms")},
		},
	}
	if tenant == "narrow" {
		in.Revisions.Own = "sha256:own"
		in.Documents = append(in.Documents, store.Document{Kind: store.DocumentBundle, Digest: "sha256:own", Tenant: tenant, Content: []byte("the plain bundle of a tenant")})
	}
	return in
}

func TestInputsAreKeptEncrypted(t *testing.T) {
	u := newInputs(t, nil)
	var want []store.Input
	for n, tenant := range []string{"acme", "narrow", "acme"} {
		in := sampleInput(n, tenant)
		u.Keep(in)
		in.Documents = nil
		want = append(want, in)
	}
	u.flush()
	got, failures := u.opened()
	if diff := cmp.Diff([]store.Input{want[0], want[2], want[1]}, got); diff != "" || len(failures) > 0 {
		t.Errorf("failures %v, difference:\n%s", failures, diff)
	}
	for kind, digest := range map[string]string{store.DocumentBundle: "sha256:org", store.DocumentTerms: "sha256:terms"} {
		if content, err := u.Document(t.Context(), kind, digest, ""); err != nil || !strings.HasPrefix(string(content), "the plain ") {
			t.Errorf("%s is %q, %v", kind, content, err)
		}
	}
	if c := u.Counts(); c.Kept != 3 || c.Waiting != 0 || len(c.Lost) != 0 {
		t.Errorf("counts are %+v", c)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(u.path), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte("the plain")) {
			t.Errorf("%s holds plain text", name)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestInputsOutliveTheProcess(t *testing.T) {
	u := newInputs(t, nil)
	u.Keep(sampleInput(1, "acme"))
	u.flush()
	u.db.Close()
	again, err := store.Open(t.Context(), u.path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	second, err := store.NewInputs(store.InputsConfig{Store: again, KeyFile: u.keyFile, WriteTimeout: 3 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	second.Keep(sampleInput(2, "acme")) // under the same tenant's key
	if err := second.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, failures := u.opened(); len(got) != 2 || len(failures) != 0 {
		t.Errorf("%d inputs are read, failures %v", len(got), failures)
	}
}

// nothing is done before an erasure.
func nothing(store.Erased) error { return nil }

func TestErasedInputsCannotBeRead(t *testing.T) {
	for name, test := range map[string]struct {
		which  store.Selection
		erased int64
		left   int
	}{
		"execution":     {store.Selection{Execution: "ex_1"}, 1, 3},
		"tenant":        {store.Selection{Tenant: "narrow"}, 2, 2},
		"nothing":       {store.Selection{Execution: "ex_9"}, 0, 4},
		"subject":       {store.Selection{Tenant: "acme", Subject: "ak_0"}, 1, 3},
		"other's":       {store.Selection{Tenant: "narrow", Subject: "ak_0"}, 0, 4},
		"before":        {store.Selection{Before: time.Now().Add(time.Hour)}, 4, 0},
		"before all":    {store.Selection{Before: time.Now().Add(-time.Hour)}, 0, 4},
		"tenant before": {store.Selection{Tenant: "acme", Before: time.Now().Add(time.Hour)}, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			u := newInputs(t, nil)
			for n, tenant := range []string{"acme", "narrow", "acme", "narrow"} {
				u.Keep(sampleInput(n, tenant))
			}
			var told store.Erased
			erased, err := u.Erase(t.Context(), test.which, func(e store.Erased) error { // while they wait
				if got, _ := u.opened(); len(got) != 4 {
					t.Errorf("%d are left when it is told", len(got))
				}
				told = e
				return nil
			})
			if err != nil || erased.Inputs != test.erased || erased != told {
				t.Errorf("%+v are erased, told %+v, %v", erased, told, err)
			}
			got, failures := u.opened()
			if len(got) != test.left || failures[store.CodeInputErased] != int(test.erased) {
				t.Errorf("%d are left, failures %v", len(got), failures)
			}
			u.Keep(sampleInput(7, "narrow"))
			u.flush()
			if got, _ := u.opened(); len(got) != test.left+1 {
				t.Errorf("%d are read after another was kept", len(got))
			}
			if _, err := u.Document(t.Context(), store.DocumentBundle, "sha256:own", "narrow"); err != nil {
				t.Errorf("the tenant's bundle is not kept anew: %v", err)
			}
		})
	}
}

// What is erased is not in the database's files either: here its sealed bytes, as
// they stood before.
func TestErasureReachesTheFiles(t *testing.T) {
	u := newInputs(t, nil)
	u.Keep(sampleInput(1, "acme"))
	u.flush()
	var wrapped []byte
	if err := raw(t, u.path).QueryRow("SELECT wrapped FROM inputs").Scan(&wrapped); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Erase(t.Context(), store.Selection{Execution: "ex_1"}, nothing); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{u.path, u.path + "-wal"} {
		if content, err := os.ReadFile(name); err != nil || bytes.Contains(content, wrapped) {
			t.Errorf("%s still holds the key that was erased (%v)", name, err)
		}
	}
}

func TestDamagedInputsAreUnreadable(t *testing.T) {
	for name, statement := range map[string]string{
		"part of the text":    "UPDATE inputs SET sealed = CAST(substr(sealed, 1, 20) || x'0000000000000000' || substr(sealed, 29) AS BLOB)",
		"cut":                 "UPDATE inputs SET sealed = substr(sealed, 1, 5)",
		"empty":               "UPDATE inputs SET sealed = x'00', wrapped = x'00'",
		"wrapped key":         "UPDATE inputs SET wrapped = zeroblob(60)",
		"another's":           "UPDATE inputs SET sealed = (SELECT max(sealed) FROM inputs)",
		"other policy":        "UPDATE inputs SET organisation = 'sha256:other'",
		"other tenant":        "UPDATE inputs SET tenant = 'other'",
		"other time":          "UPDATE inputs SET at_ms = at_ms - 1",
		"other number":        "UPDATE inputs SET seq = seq + 100",
		"tenants' keys":       "UPDATE input_keys SET wrapped = zeroblob(60)",
		"keys of one another": "UPDATE inputs SET tenant_key = (SELECT id FROM input_keys WHERE tenant = '')",
	} {
		t.Run(name, func(t *testing.T) {
			u := newInputs(t, nil)
			for n := range 3 {
				u.Keep(sampleInput(n, "acme"))
			}
			u.flush()
			if _, err := raw(t, u.path).Exec(statement); err != nil {
				t.Fatal(err)
			}
			got, failures := u.opened()
			want := 3
			if name == "another's" {
				want = 2 // one has its own still
			}
			if failures[store.CodeInputUnreadable] != want || len(got) != 3-want {
				t.Errorf("%d are read, failures %v", len(got), failures)
			}
			u.Keep(sampleInput(5, "fresh"))
			u.flush() // and goes on
		})
	}
}

func TestInputsThatFindNoRoomAreCounted(t *testing.T) {
	u := newInputs(t, nil)
	const waiting = 4096
	began := time.Now()
	for n := range waiting + 5 {
		u.Keep(sampleInput(n, "acme"))
	}
	if took := time.Since(began); took > 2*time.Minute { // who waited for room would do so for ever
		t.Errorf("keeping took %v", took)
	}
	if c := u.Counts(); c.Lost[store.LostOverflow] != 5 || c.Waiting != waiting {
		t.Errorf("counts are %+v", c)
	}
	u.flush()
	lost, err := u.Lost(t.Context(), always)
	if err != nil || lost[store.LostOverflow] != 5 {
		t.Errorf("the database knows of %v, %v", lost, err)
	}
	large := sampleInput(1, "acme")
	large.Execution, large.Asked = "ex_large", make([]byte, 40<<20)
	u.Keep(large)
	u.Keep(large)
	if c := u.Counts(); c.Lost[store.LostOverflow] != 6 || c.Waiting != 1 {
		t.Errorf("counts are %+v", c)
	}
}

func TestInputsThatCannotBeWrittenAreCounted(t *testing.T) {
	u := newInputs(t, nil)
	u.Keep(sampleInput(1, "acme"))
	u.db.Close()
	if err := u.Flush(t.Context()); err == nil {
		t.Error("a closed database was written")
	}
	if c := u.Counts(); c.Lost[store.LostFailed] != 1 || c.Kept != 0 {
		t.Errorf("counts are %+v", c)
	}
}

func TestRunWritesWhatWaits(t *testing.T) {
	u := newInputs(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	for n := range 1000 {
		u.Keep(sampleInput(n, "acme"))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, _ := u.opened(); len(got) != 1000 {
		t.Errorf("%d were written", len(got))
	}
}

func TestOldInputsGoAndTheirPoliciesWithThem(t *testing.T) {
	u := newInputs(t, func(c *store.InputsConfig) { c.Retain = 24 * time.Hour })
	old, young := sampleInput(1, "narrow"), sampleInput(2, "acme")
	old.Time = old.Time.Add(-25 * time.Hour)
	u.Keep(old)
	u.Keep(young)
	u.flush()
	if err := u.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, failures := u.opened(); len(got) != 1 || got[0].Execution != "ex_2" || len(failures) != 0 {
		t.Errorf("%+v is left", got)
	}
	if _, err := u.Document(t.Context(), store.DocumentBundle, "sha256:own", "narrow"); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("a policy that no input names: %v", err)
	}
	if _, err := u.Document(t.Context(), store.DocumentBundle, "sha256:org", ""); err != nil {
		t.Errorf("a policy that an input names: %v", err)
	}
	var sealed []byte
	document := func() (now []byte) {
		t.Helper()
		if err := raw(t, u.path).QueryRow("SELECT sealed FROM input_documents WHERE digest = 'sha256:org'").Scan(&now); err != nil {
			t.Fatal(err)
		}
		return now
	}
	sealed = document()
	again := sampleInput(3, "narrow")
	u.Keep(again)
	u.flush()
	if _, err := u.Document(t.Context(), store.DocumentBundle, "sha256:own", "narrow"); err != nil {
		t.Errorf("a policy that is named again: %v", err)
	}
	if !bytes.Equal(sealed, document()) {
		t.Error("a policy that is there was written again")
	}
}

// Sweeping reads no more of the inputs than it forgets.
func TestSweepingUsesIndexes(t *testing.T) {
	u := newInputs(t, nil)
	for name, query := range map[string]string{
		"terms":        "SELECT 1 FROM inputs WHERE terms = 'x' AND wrapped IS NOT NULL",
		"organisation": "SELECT 1 FROM inputs WHERE organisation = 'x' AND wrapped IS NOT NULL",
		"own":          "SELECT 1 FROM inputs WHERE own = 'x' AND own <> '' AND tenant = 'y' AND wrapped IS NOT NULL",
		"key":          "SELECT 1 FROM inputs WHERE tenant_key = 1 AND wrapped IS NOT NULL",
		"age":          "SELECT 1 FROM inputs WHERE at_ms < 1",
		"room":         "SELECT id FROM inputs WHERE tenant = 'x' ORDER BY id LIMIT 9",
		"group":        "SELECT id FROM inputs WHERE organisation = 'x' AND terms = 'x' AND own = '' AND at_ms >= 1 AND at_ms < 2",
	} {
		var id, parent, unused int
		var detail string
		if err := raw(t, u.path).QueryRow("EXPLAIN QUERY PLAN "+query).Scan(&id, &parent, &unused, &detail); err != nil || !strings.HasPrefix(detail, "SEARCH ") {
			t.Errorf("%s: %q, %v", name, detail, err)
		}
	}
}

func TestAFloodOfInputsCostsItsTenant(t *testing.T) {
	u := newInputs(t, func(c *store.InputsConfig) { c.MaxBytes = 1 << 20 })
	u.Keep(sampleInput(0, "quiet"))
	for n := range 3000 {
		u.Keep(sampleInput(n+1, "loud"))
	}
	u.flush()
	got, _ := u.opened()
	count := map[string]int{}
	for _, in := range got {
		count[in.Tenant]++
	}
	if c := u.Counts(); count["quiet"] != 1 || count["loud"] == 0 || c.Lost[store.LostRoom] != uint64(3000-count["loud"]) {
		t.Errorf("%v are left, counts are %+v", count, c)
	}
}

func TestPickSomeInput(t *testing.T) {
	u := newInputs(t, nil)
	if _, err := u.Pick(t.Context(), 10, 3); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("of none: %v", err)
	}
	for n := range 20 {
		u.Keep(sampleInput(n, "acme"))
	}
	u.flush()
	for n := range int64(30) {
		in, err := u.Pick(t.Context(), 10, n)
		if err != nil || in.Seq != uint64(19-n%10) {
			t.Errorf("number %d is %+v, %v", n, in, err)
		}
	}
}

func TestKeyFilesOfInputs(t *testing.T) {
	u := newInputs(t, nil)
	u.Keep(sampleInput(1, "acme"))
	u.flush()
	if err := os.Chmod(u.keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenInputs(t.Context(), u.path, u.keyFile); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	if err := os.Remove(u.keyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenInputs(t.Context(), u.path, u.keyFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
	if _, err := os.Stat(u.keyFile); err == nil {
		t.Error("a reader made a key")
	}
	if err := os.WriteFile(u.keyFile, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, failures := u.opened(); len(got) != 0 || failures[store.CodeInputUnreadable] != 1 {
		t.Errorf("under another key %v is read, failures %v", got, failures)
	}
}

func TestOpenInputsRefuses(t *testing.T) {
	u := newInputs(t, nil)
	if _, err := store.OpenInputs(t.Context(), u.path+".not", u.keyFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no database: %v", err)
	}
	if _, err := raw(t, u.path).Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenInputs(t.Context(), u.path, u.keyFile); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("a newer schema: %v", err)
	}
}
