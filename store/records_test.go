package store_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

const someLog = "execgate/audit/00112233445566778899aabbccddeeff"

func openRecords(t testing.TB, path, log string, size uint64) *store.Records {
	t.Helper()
	r, err := store.OpenRecords(t.Context(), path, log, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func addRecords(t testing.TB, r *store.Records, records []execution.Record) {
	t.Helper()
	if err := r.Add(t.Context(), records); err != nil {
		t.Fatal(err)
	}
}

// pages asks for all that f means, page by page.
func pages(t testing.TB, r *store.Records, f execution.RecordFilter, oldest bool, most int) []uint64 {
	t.Helper()
	all := []uint64{}
	for {
		found, err := r.Search(t.Context(), execution.RecordQuery{Filter: f, Oldest: oldest, Most: most})
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Seqs) > most || found.More && len(found.Seqs) < most {
			t.Fatalf("a page of %d, where %d were asked for and more is %v", len(found.Seqs), most, found.More)
		}
		all = append(all, found.Seqs...)
		if !found.More {
			return all
		}
		if oldest {
			f.From = found.Next
		} else {
			f.Before = found.Next
		}
	}
}

// Every filter, alone and with others, finds what a plain look at every record does,
// in both orders, with pages of any size.
func TestSearchFindsWhatAScanDoes(t *testing.T) {
	v := newInvention(7)
	records := v.records(40_000) // more than two blocks
	r := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	for rest := records; len(rest) > 0; {
		n := min(len(rest), 1+v.IntN(3000))
		addRecords(t, r, rest[:n])
		rest = rest[n:]
	}
	check := func(f execution.RecordFilter) int {
		t.Helper()
		want := scan(f, records)
		// What the index finds is checked by Matches when it is read from the log.
		for _, record := range records[:500] {
			if f.Matches(record) != means(f, record) {
				t.Fatalf("%+v matches %+v: %v", f, record, f.Matches(record))
			}
		}
		most := 1 + len(want)/(1+v.IntN(4))
		if got := pages(t, r, f, true, most); !slices.Equal(got, want) {
			t.Fatalf("%+v, oldest first: %d found, and there are %d", f, len(got), len(want))
		}
		got := pages(t, r, f, false, most)
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%+v, newest first: %d found, and there are %d", f, len(got), len(want))
		}
		return len(want)
	}
	check(execution.RecordFilter{})
	for _, kind := range execution.TermKinds() {
		values := map[string]bool{}
		for _, record := range records[:2000] {
			for _, value := range valuesOf(record, kind) {
				values[value] = true
			}
		}
		if kind == execution.TermExecution {
			values = map[string]bool{"ex_00000000000000000000000007": true}
		}
		for value := range values {
			if n := check(execution.RecordFilter{Values: map[execution.TermKind]string{kind: value}}); n == 0 {
				t.Errorf("nothing has the %s %q", kind, value)
			}
		}
	}
	found := 0
	for range 120 {
		found += min(1, check(v.filter(records)))
	}
	if found < 20 {
		t.Errorf("only %d of the filters find anything", found)
	}
}

// While records are added, a reader who goes from page to page sees each record that
// was there once, and oldest first all that come, too.
func TestPagesAreStableWhileRecordsAreAdded(t *testing.T) {
	v := newInvention(11)
	records := v.records(30_000)
	r := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	addRecords(t, r, records[:5000])
	f := execution.RecordFilter{Values: map[execution.TermKind]string{execution.TermTenant: "tenant-1"}}

	var adding sync.WaitGroup
	adding.Go(func() {
		for rest := records[5000:]; len(rest) > 0; rest = rest[min(100, len(rest)):] {
			if err := r.Add(t.Context(), rest[:min(100, len(rest))]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for round := range 5 {
		before := r.Next()
		got := pages(t, r, f, false, 37+round)
		if !slices.IsSortedFunc(got, func(a, b uint64) int { return int(int64(b) - int64(a)) }) {
			t.Fatal("the newest are not first")
		}
		want := scan(execution.RecordFilter{Values: f.Values, Before: before}, records)
		slices.Reverse(want)
		if got = got[len(got)-min(len(got), len(want)):]; !slices.Equal(got, want) {
			t.Fatalf("of %d records that were there, %d were found", len(want), len(got))
		}
	}
	// Whoever follows asks again where the last answer ended.
	var followed []uint64
	from := uint64(0)
	for from <= records[len(records)-1].Seq && !t.Failed() {
		found, err := r.Search(t.Context(), execution.RecordQuery{Filter: execution.RecordFilter{Values: f.Values, From: from}, Oldest: true, Most: 53})
		if err != nil {
			t.Fatal(err)
		}
		followed, from = append(followed, found.Seqs...), found.Next
	}
	adding.Wait()
	if want := scan(f, records); !slices.Equal(followed, want) {
		t.Errorf("followed %d of %d records", len(followed), len(want))
	}
}

// answers is all that an index says of some filters, and usage.
func answers(t testing.TB, r *store.Records, filters []execution.RecordFilter) string {
	t.Helper()
	var all []any
	for _, f := range filters {
		all = append(all, pages(t, r, f, true, 1000))
	}
	if err := r.Usage(t.Context(), execution.MeterQuery{}, func(m execution.Metered) bool {
		all = append(all, m)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// However an index was made, in one life or many, with records given twice and batches
// that were given up, it says the same.
func TestRecordsAreIndexedExactlyOnce(t *testing.T) {
	v := newInvention(13)
	records := v.records(20_000)
	filters := []execution.RecordFilter{{}}
	for range 40 {
		filters = append(filters, v.filter(records))
	}
	last := records[len(records)-1].Seq + 1
	whole := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	addRecords(t, whole, records)
	want := answers(t, whole, filters)

	path := filepath.Join(t.TempDir(), "index.db")
	broken, cancel := context.WithCancel(t.Context())
	cancel()
	for at := 0; at < len(records); {
		r, err := store.OpenRecords(t.Context(), path, someLog, last)
		if err != nil {
			t.Fatal(err)
		}
		if r.Rebuilt() > 0 != (at == 0) {
			t.Fatalf("rebuilt %d times at record %d", r.Rebuilt(), at)
		}
		for range 3 {
			if at == len(records) {
				break
			}
			end := min(at+1+v.IntN(1500), len(records))
			if r.Add(broken, records[at:end]) == nil {
				t.Fatal("added although the context had ended")
			}
			again := max(0, at-v.IntN(100))
			addRecords(t, r, records[again:end])
			addRecords(t, r, records[again:end])
			at = end
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := openRecords(t, path, someLog, last)
	if got := answers(t, r, filters); got != want {
		t.Error("an index of many lives says something else")
	}
	if err := r.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Next() != 0 {
		t.Fatalf("after a rebuild the next record is %d", r.Next())
	}
	addRecords(t, r, records)
	if got := answers(t, r, filters); got != want {
		t.Error("an index that was rebuilt says something else")
	}
}

// What cannot be added to is begun anew.
func TestIndexThatDoesNotFitIsBegunAnew(t *testing.T) {
	records := newInvention(17).records(3000)
	last := records[len(records)-1].Seq + 1
	exec := func(statement string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, harm := range map[string]func(*testing.T, string){
		"deleted": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"overwritten": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database\n", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another version": exec("PRAGMA user_version = 99"),
		"another program": exec("PRAGMA application_id = 1"),
		"another log":     exec("UPDATE cursor SET log = 'execgate/audit/ff'"),
		"ahead":           exec(fmt.Sprintf("UPDATE cursor SET next = %d", last+1)),
		"no cursor":       exec("DELETE FROM cursor"),
		"no table":        exec("DROP TABLE cursor"),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "index.db")
			r, err := store.OpenRecords(t.Context(), path, someLog, last)
			if err != nil {
				t.Fatal(err)
			}
			addRecords(t, r, records)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			harm(t, path)
			r = openRecords(t, path, someLog, last)
			if r.Next() != 0 || r.Rebuilt() != 1 {
				t.Fatalf("the next record is %d, after %d rebuilds", r.Next(), r.Rebuilt())
			}
			addRecords(t, r, records)
			if got, want := pages(t, r, execution.RecordFilter{}, true, 500), scan(execution.RecordFilter{}, records); !slices.Equal(got, want) {
				t.Errorf("%d records are found, of %d", len(got), len(want))
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the index has the mode %v (%v)", info.Mode(), err)
			}
		})
	}
}

// Damage that shows only when it is read marks the index, and is an error until it is
// rebuilt.
func TestDamageThatIsReadIsNoticed(t *testing.T) {
	records := newInvention(19).records(3000)
	for name, statement := range map[string]string{
		"set of odd length":    "UPDATE postings SET offsets = x'010203' WHERE kind = ''",
		"set that is too long": "UPDATE postings SET offsets = zeroblob(4096) WHERE kind = ''",
		"set out of its block": "UPDATE postings SET offsets = x'ffff' WHERE kind = ''",
		"times that are long":  "UPDATE times SET at = zeroblob(100000)",
		"a table is gone":      "DROP TABLE postings",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "index.db")
			r := openRecords(t, path, someLog, math.MaxUint64)
			addRecords(t, r, records)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
			q := execution.RecordQuery{Filter: execution.RecordFilter{Since: records[10].Time}, Most: 10}
			if _, err := r.Search(t.Context(), q); err == nil || !r.Damaged() {
				t.Fatalf("error %v, damaged %v", err, r.Damaged())
			}
			if err := r.Rebuild(t.Context()); err != nil {
				t.Fatal(err)
			}
			addRecords(t, r, records)
			if _, err := r.Search(t.Context(), q); err != nil || r.Damaged() {
				t.Errorf("after the rebuild: error %v, damaged %v", err, r.Damaged())
			}
		})
	}
}

// Usage is what the records say, and stays when they are forgotten.
func TestUsageOutlivesItsRecords(t *testing.T) {
	v := newInvention(23)
	records := v.records(20_000)
	want := map[execution.MeterKey]execution.Metered{}
	for _, r := range records {
		if m, ok := execution.Meter(r); ok {
			sum := want[m.MeterKey]
			sum.MeterKey = m.MeterKey
			sum.Add(m)
			want[m.MeterKey] = sum
		}
	}
	r := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	for rest := records; len(rest) > 0; rest = rest[min(777, len(rest)):] {
		addRecords(t, r, rest[:min(777, len(rest))])
	}
	usage := func(q execution.MeterQuery) map[execution.MeterKey]execution.Metered {
		got := map[execution.MeterKey]execution.Metered{}
		var before execution.MeterKey
		if err := r.Usage(t.Context(), q, func(m execution.Metered) bool {
			if m.Compare(before) <= 0 {
				t.Errorf("%v after %v", m.MeterKey, before)
			}
			got[m.MeterKey], before = m, m.MeterKey
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if diff := cmp.Diff(want, usage(execution.MeterQuery{})); diff != "" {
		t.Fatal(diff)
	}
	first := records[16_000].Seq
	if err := r.Forget(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, usage(execution.MeterQuery{})); diff != "" {
		t.Error(diff)
	}
	f := execution.RecordFilter{Values: map[execution.TermKind]string{execution.TermEffect: "allow"}}
	got := pages(t, r, f, true, 1000)
	f.From = first
	if want := scan(f, records); !slices.Equal(got, want) {
		t.Errorf("%d records are found, and %d are kept", len(got), len(want))
	}
	more := v.records(10)
	addRecords(t, r, more)
	if r.Next() != more[9].Seq+1 {
		t.Errorf("the next record is %d", r.Next())
	}
	// However narrow, it is what all of it has: days without any, before and after all
	// too.
	all := usage(execution.MeterQuery{})
	for _, tenant := range []string{"", "tenant-1", "tenant-9"} {
		for _, subject := range []string{"", "ak_2", "ak_none"} {
			for _, since := range []string{"", "0001-01-01", "2026-03-01", "2026-03-05", "2026-03-09", "2999-01-01"} {
				for _, until := range []string{"", "2026-03-07", "2026-03-10", "2999-01-01"} {
					q := execution.MeterQuery{Tenant: tenant, Subject: subject, Since: since, Until: until}
					want := maps.Clone(all)
					maps.DeleteFunc(want, func(key execution.MeterKey, _ execution.Metered) bool { return !q.Means(key) })
					if diff := cmp.Diff(want, usage(q)); diff != "" {
						t.Errorf("%+v: %s", q, diff)
					}
				}
			}
		}
	}
	if q := (execution.MeterQuery{Tenant: "tenant-1", Subject: "ak_2", Since: "2026-03-05", Until: "2026-03-07"}); len(usage(q)) != 3 {
		t.Errorf("%d days", len(usage(q)))
	}
	for _, q := range []execution.MeterQuery{{}, {Tenant: "tenant-1"}, {Subject: "ak_2"}} {
		n := 0
		if err := r.Usage(t.Context(), q, func(execution.Metered) bool { n++; return n < 7 }); err != nil || n != 7 {
			t.Errorf("%+v: told to stop after 7 it comes to %d: %v", q, n, err)
		}
	}
}

// A sum that does not fit stays at the largest number.
func TestUsageDoesNotOverflow(t *testing.T) {
	r := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	record := execution.Record{
		Type: execution.RecordEnded, Time: epoch, Principal: &execution.Principal{Tenant: "acme", Subject: "ak"},
		Ended: &execution.Ended{Outcome: execution.OutcomeExited, Usage: execution.Usage{WallMS: math.MaxInt64 - 1, PeakMemoryMiB: math.MaxInt64}},
	}
	for i := range 4 {
		record.Seq = uint64(2 * i)
		next := record
		next.Seq++
		addRecords(t, r, []execution.Record{record, next})
	}
	if err := r.Usage(t.Context(), execution.MeterQuery{}, func(m execution.Metered) bool {
		if m.WallMS != math.MaxInt64 || m.MemoryMiBMS < 0 || m.Executions != 8 {
			t.Errorf("%+v", m)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// A value of any length and with any bytes is found, and no other with it.
func TestHostileValuesAreFoundAsTheyAre(t *testing.T) {
	values := []string{"a", "A", "a ", "a\x00", "a\x00b", "%", "_", "'; DROP TABLE postings; --", "\xff\xfe", "\n\x1b[31m", strings.Repeat("x", 256), strings.Repeat("x", 257), strings.Repeat("x", 258), strings.Repeat("x", 1<<16)}
	var records []execution.Record
	for i, value := range values {
		records = append(records, execution.Record{
			Seq: uint64(i), Type: execution.RecordEgressDecided, Time: epoch.Add(time.Duration(i)),
			EgressDecided: &execution.EgressDecided{Host: value},
		})
	}
	r := openRecords(t, filepath.Join(t.TempDir(), "index.db"), someLog, 0)
	addRecords(t, r, records)
	for i, value := range values {
		got := pages(t, r, execution.RecordFilter{Values: map[execution.TermKind]string{execution.TermHost: value}}, true, 10)
		if diff := cmp.Diff([]uint64{uint64(i)}, got); diff != "" {
			t.Errorf("%.20q: %s", value, diff)
		}
	}
}
