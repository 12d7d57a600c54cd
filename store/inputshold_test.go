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
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func sampleMaterial(n int, tenant, part string) store.Material {
	in := sampleInput(n, tenant)
	return store.Material{
		Execution: in.Execution, Part: part, Seq: in.Seq, Tenant: tenant, Subject: in.Subject, Time: in.Time, Content: []byte("the plain " + part),
	}
}

// kept opens all that is kept of an execution as another process would.
func (u *inputsUnderTest) kept(id string) (inputs []store.Input, materials []store.Material, codes []string) {
	u.t.Helper()
	r, err := store.OpenInputs(u.t.Context(), u.path, u.keyFile)
	if err != nil {
		u.t.Fatal(err)
	}
	defer r.Close()
	sealed, sealedMaterials, err := r.OfExecution(u.t.Context(), id)
	if err != nil {
		u.t.Fatal(err)
	}
	failed := func(err error) bool {
		if e, ok := errors.AsType[*execution.Error](err); ok {
			codes = append(codes, e.Code)
		} else if err != nil {
			u.t.Fatal(err)
		}
		return err != nil
	}
	for _, s := range sealed {
		if in, err := s.Open(u.t.Context()); !failed(err) {
			inputs = append(inputs, in)
		}
	}
	for _, s := range sealedMaterials {
		if m, err := s.Open(u.t.Context()); !failed(err) {
			materials = append(materials, m)
		}
	}
	return inputs, materials, codes
}

func (u *inputsUnderTest) hold(held store.Held) error { return u.Hold(u.t.Context(), held) }

// grep finds text in any file beside the database.
func (u *inputsUnderTest) grep(text []byte) (found []string) {
	u.t.Helper()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(u.path), "*"))
	if err != nil {
		u.t.Fatal(err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			u.t.Fatal(err)
		}
		if bytes.Contains(content, text) {
			found = append(found, name)
		}
	}
	return found
}

func TestHeldIsThereWhenHoldReturns(t *testing.T) {
	u := newInputs(t, nil)
	in, request, output := sampleInput(1, "acme"), sampleMaterial(1, "acme", store.PartRequest), sampleMaterial(1, "acme", store.PartOutput)
	if err := u.hold(store.Held{Input: &in, Materials: []store.Material{request}}); err != nil {
		t.Fatal(err)
	}
	if err := u.hold(store.Held{Materials: []store.Material{output}}); err != nil {
		t.Fatal(err)
	}
	inputs, materials, codes := u.kept("ex_1")
	if diff := cmp.Diff([]store.Input{in}, inputs, cmpopts.IgnoreFields(store.Input{}, "Documents")); diff != "" {
		t.Errorf("inputs differ:\n%s", diff)
	}
	if diff := cmp.Diff([]store.Material{request, output}, materials); diff != "" || codes != nil {
		t.Errorf("%v, materials differ:\n%s", codes, diff)
	}
	if found := u.grep([]byte("the plain")); found != nil {
		t.Errorf("plain text in %v", found)
	}
	if inputs, materials, codes := u.kept("ex_2"); inputs != nil || materials != nil || codes != nil {
		t.Errorf("of another there are %v, %v, %v", inputs, materials, codes)
	}
}

// What is kept longer or shorter outlives, or does not, what is kept by default.
func TestHeldIsKeptUntilItsTime(t *testing.T) {
	const day = 24 * time.Hour
	u := newInputs(t, func(c *store.InputsConfig) { c.Retain = 10 * day })
	left := map[string]int{}
	for n, test := range []struct {
		age, until time.Duration // both from now, backwards and forwards
		held       bool
		left       int
	}{
		{age: 11 * day, left: 0},
		{age: 9 * day, left: 1},
		{age: 11 * day, held: true, left: 0},
		{age: 9 * day, held: true, left: 3},
		{age: 11 * day, until: day, held: true, left: 3},
		{age: day, until: -time.Hour, held: true, left: 0},
	} {
		in := sampleInput(n, "acme")
		in.Time = time.Now().Add(-test.age)
		left[in.Execution] = test.left
		if !test.held {
			u.Keep(in)
			u.flush()
			continue
		}
		held := store.Held{Input: &in, Materials: []store.Material{sampleMaterial(n, "acme", store.PartRequest), sampleMaterial(n, "acme", store.PartOutput)}}
		for i := range held.Materials {
			held.Materials[i].Time = in.Time
		}
		if test.until != 0 {
			held.Until = time.Now().Add(test.until)
		}
		if err := u.hold(held); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, want := range left {
		if inputs, materials, codes := u.kept(id); len(inputs)+len(materials) != want || codes != nil {
			t.Errorf("%s: %d inputs and %d materials are left, want %d together; %v", id, len(inputs), len(materials), want, codes)
		}
	}
}

// What must be kept is given up for nothing, and refused where it finds no room: of
// one tenant past half of it, so that others find some.
func TestHeldIsBounded(t *testing.T) {
	u := newInputs(t, func(c *store.InputsConfig) { c.MaxBytes = 64 << 10 })
	for n := range 20 {
		in := sampleInput(n, "other")
		in.Asked = []byte(strings.Repeat("x", 2<<10))
		u.Keep(in)
	}
	u.flush()
	hold := func(n int, tenant string) error {
		m := sampleMaterial(n, tenant, store.PartRequest)
		m.Content = bytes.Repeat([]byte("x"), 10_000)
		return u.hold(store.Held{Materials: []store.Material{m}})
	}
	for n := 100; n < 103; n++ {
		if err := hold(n, "acme"); err != nil {
			t.Fatal(err)
		}
	}
	full := func(err error) bool {
		e, ok := errors.AsType[*execution.Error](err)
		return ok && e.Code == store.CodeHeldFull && e.Kind == execution.KindUnavailable
	}
	if err := hold(104, "acme"); !full(err) {
		t.Errorf("the fourth of a tenant: %v", err)
	}
	for n := 105; n < 108; n++ {
		if err := hold(n, "beta"); err != nil {
			t.Errorf("another tenant: %v", err)
		}
	}
	if err := hold(109, "gamma"); !full(err) {
		t.Errorf("one too many: %v", err)
	}
	for n := 100; n < 110; n++ {
		if _, materials, _ := u.kept(fmt.Sprintf("ex_%d", n)); (len(materials) == 1) != (n != 103 && n != 104 && n != 108 && n != 109) {
			t.Errorf("of %d there are %d", n, len(materials))
		}
	}
	if got, _ := u.opened(); len(got) >= 20 {
		t.Error("no input made room")
	}
	if _, err := u.Erase(t.Context(), store.Selection{Execution: "ex_100"}, nothing); err != nil {
		t.Fatal(err)
	}
	if err := hold(110, "acme"); err != nil {
		t.Errorf("what was erased takes room still: %v", err)
	}
	large := sampleMaterial(200, "acme", store.PartOutput)
	large.Content = make([]byte, store.MaxMaterialBytes+1)
	if err := u.hold(store.Held{Materials: []store.Material{large}}); execution.KindOf(err) != execution.KindUnavailable {
		t.Errorf("too large: %v", err)
	}
}

// A hold is all or nothing, and does not wait past its context.
func TestHoldThatFails(t *testing.T) {
	u := newInputs(t, nil)
	in, request := sampleInput(1, "acme"), sampleMaterial(1, "acme", store.PartRequest)
	if err := u.hold(store.Held{Input: &in, Materials: []store.Material{request, request}}); err == nil {
		t.Error("two requests of one execution are held")
	}
	if inputs, materials, codes := u.kept("ex_1"); inputs != nil || materials != nil || codes != nil {
		t.Errorf("of a failed hold there are %v, %v, %v", inputs, materials, codes)
	}
	_, err := u.Erase(t.Context(), store.Selection{Execution: "ex_1"}, func(store.Erased) error { // which is writing
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := u.Hold(ctx, store.Held{Input: &in}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hold behind a writer: %v", err)
		}
		return errors.New("not recorded")
	})
	if err == nil || err.Error() != "not recorded" {
		t.Errorf("an erasure that is not recorded: %v", err)
	}
	u.db.Close()
	if err := u.hold(store.Held{Input: &in}); err == nil {
		t.Error("something is held in a database that is closed")
	}
}

func TestErasedMaterialsCannotBeRead(t *testing.T) {
	u := newInputs(t, nil)
	for n, tenant := range []string{"acme", "acme", "beta"} {
		in := sampleInput(n, tenant)
		if err := u.hold(store.Held{Input: &in, Materials: []store.Material{sampleMaterial(n, tenant, store.PartRequest)}}); err != nil {
			t.Fatal(err)
		}
	}
	refused := errors.New("the log is full")
	if _, err := u.Erase(t.Context(), store.Selection{Execution: "ex_0"}, func(store.Erased) error { return refused }); err != refused {
		t.Errorf("%v", err)
	}
	if _, materials, _ := u.kept("ex_0"); len(materials) != 1 {
		t.Error("it is erased although that was not recorded")
	}
	erased, err := u.Erase(t.Context(), store.Selection{Tenant: "acme", Subject: "ak_0"}, nothing)
	if err != nil || erased != (store.Erased{Inputs: 1, Materials: 1}) {
		t.Errorf("%+v, %v", erased, err)
	}
	// Its program still runs.
	if err := u.hold(store.Held{Materials: []store.Material{sampleMaterial(0, "acme", store.PartOutput)}}); err != nil {
		t.Errorf("the output of what was erased: %v", err)
	}
	if inputs, materials, codes := u.kept("ex_0"); inputs != nil || materials != nil || !cmp.Equal(codes, []string{store.CodeInputErased, store.CodeInputErased}) {
		t.Errorf("of what was erased there are %v, %v, %v", inputs, materials, codes)
	}
	if again, err := u.Erase(t.Context(), store.Selection{Tenant: "acme", Subject: "ak_0"}, nothing); err != nil || again != (store.Erased{}) {
		t.Errorf("erased again: %+v, %v", again, err)
	}
	if _, err := u.Erase(t.Context(), store.Selection{Tenant: "acme"}, nothing); err != nil {
		t.Fatal(err)
	}
	if _, materials, codes := u.kept("ex_1"); materials != nil || len(codes) != 2 {
		t.Errorf("of an erased tenant there are %v, %v", materials, codes)
	}
	if inputs, materials, codes := u.kept("ex_2"); len(inputs) != 1 || len(materials) != 1 || codes != nil {
		t.Errorf("of another there are %v, %v, %v", inputs, materials, codes)
	}
	for name, which := range map[string]store.Selection{"nothing": {}, "a subject of nobody's": {Subject: "ak_2"}} {
		if _, err := u.Erase(t.Context(), which, nothing); err == nil {
			t.Errorf("%s is erased", name)
		}
	}
}

// However the pages of the database were moved about, no erased key is left in its
// files.
func TestErasureReachesEveryPage(t *testing.T) {
	u := newInputs(t, nil)
	const all = 400
	for n := range all {
		in := sampleInput(n, fmt.Sprintf("tenant_%d", n%7))
		in.Asked = bytes.Repeat([]byte("x"), 1+n*37%3000)
		m := sampleMaterial(n, in.Tenant, store.PartRequest)
		m.Content = bytes.Repeat([]byte("x"), 1+n*91%5000)
		if err := u.hold(store.Held{Input: &in, Materials: []store.Material{m}}); err != nil {
			t.Fatal(err)
		}
	}
	db := raw(t, u.path)
	var secrets [][]byte
	for n := 0; n < all; n += 5 {
		for _, table := range []string{"inputs", "materials"} {
			var wrapped, sealed []byte
			if err := db.QueryRow("SELECT wrapped, sealed FROM "+table+" WHERE execution = ?", fmt.Sprintf("ex_%d", n)).Scan(&wrapped, &sealed); err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, wrapped)
		}
	}
	for n := 0; n < all; n += 5 {
		if _, err := u.Erase(t.Context(), store.Selection{Execution: fmt.Sprintf("ex_%d", n)}, nothing); err != nil {
			t.Fatal(err)
		}
	}
	for i, secret := range secrets {
		if found := u.grep(secret); found != nil {
			t.Errorf("the key %d that was erased is still in %v", i, found)
		}
	}
}

func TestDamagedMaterialsAreUnreadable(t *testing.T) {
	for name, statement := range map[string]string{
		"part of the text": "UPDATE materials SET sealed = CAST(substr(sealed, 1, 20) || x'0000000000000000' || substr(sealed, 29) AS BLOB)",
		"other part":       "UPDATE materials SET part = 'output'",
		"other execution":  "UPDATE materials SET execution = 'ex_2'",
		"other subject":    "UPDATE materials SET subject = 'ak_9'",
		"other number":     "UPDATE materials SET seq = seq + 100",
	} {
		t.Run(name, func(t *testing.T) {
			u := newInputs(t, nil)
			if err := u.hold(store.Held{Materials: []store.Material{sampleMaterial(1, "acme", store.PartRequest)}}); err != nil {
				t.Fatal(err)
			}
			if _, err := raw(t, u.path).Exec(statement); err != nil {
				t.Fatal(err)
			}
			id := "ex_1"
			if name == "other execution" {
				id = "ex_2"
			}
			if _, materials, codes := u.kept(id); materials != nil || !cmp.Equal(codes, []string{store.CodeInputUnreadable}) {
				t.Errorf("%v, %v", materials, codes)
			}
		})
	}
}

// What an earlier version kept is read, swept and erased by this one; whose it was is
// not known, so that it goes with any principal of its tenant.
func TestInputsOfAnEarlierVersion(t *testing.T) {
	u := newInputs(t, nil)
	u.Keep(sampleInput(1, "acme"))
	u.flush()
	u.db.Close()
	counted := func(table, on, column string) string {
		return "CREATE TRIGGER " + table + " AFTER " + on + " ON inputs BEGIN UPDATE input_bytes SET bytes = bytes " + column + "; END;"
	}
	db := raw(t, u.path)
	if _, err := db.Exec(`DROP TABLE materials; DROP TABLE held_bytes;
		DROP TRIGGER inputs_held_inserted; DROP TRIGGER inputs_held_updated; DROP TRIGGER inputs_held_deleted;
		DROP TRIGGER inputs_inserted; DROP TRIGGER inputs_updated; DROP TRIGGER inputs_deleted;
		DROP INDEX inputs_held; ALTER TABLE inputs DROP COLUMN until_ms; ALTER TABLE inputs DROP COLUMN subject;` +
		counted("inputs_inserted", "INSERT", "+ NEW.bytes") + counted("inputs_updated", "UPDATE OF sealed", "+ NEW.bytes - OLD.bytes") +
		counted("inputs_deleted", "DELETE", "- OLD.bytes") + "PRAGMA user_version = 6"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.db, err = store.Open(t.Context(), u.path); err != nil {
		t.Fatal(err)
	}
	if u.Inputs, err = store.NewInputs(store.InputsConfig{Store: u.db, KeyFile: u.keyFile, WriteTimeout: 3 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	u.Keep(sampleInput(2, "acme"))
	u.flush()
	if err := u.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, failures := u.opened(); len(got) != 2 || len(failures) != 0 || got[0].Subject != "" || got[1].Subject != "ak_2" {
		t.Errorf("%+v, %v", got, failures)
	}
	if erased, err := u.Erase(t.Context(), store.Selection{Tenant: "acme", Subject: "ak_7"}, nothing); err != nil || erased.Inputs != 1 {
		t.Errorf("%+v, %v", erased, err)
	}
	if got, _ := u.opened(); len(got) != 1 || got[0].Subject != "ak_2" {
		t.Errorf("left is %+v", got)
	}
}
