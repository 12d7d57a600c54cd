package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
)

// auditScale is read before TestMain removes what the program does not know.
var auditScale = os.Getenv("EXECGATE_AUDIT_SCALE")

// indexScale is how many records TestScaleOfTheIndex writes: few in make test, and as
// many as EXECGATE_AUDIT_SCALE says in make bench.
func indexScale(t *testing.T) int {
	if auditScale == "" {
		return 20_000
	}
	n, err := strconv.Atoi(auditScale)
	must(t, err)
	return n
}

// An index that follows a log which is written as fast as it takes, while retention
// removes its oldest segments: what is gone leaves the index, what is kept is found,
// and neither memory nor the index grows with what was written.
func TestScaleOfTheIndex(t *testing.T) {
	n := indexScale(t)
	dir := t.TempDir()
	cfg := audit.Config{SegmentBytes: 64 << 10, DropExported: true, Budget: time.Minute}
	for cfg.SegmentBytes < int64(n/5) {
		cfg.SegmentBytes *= 2
	}
	cfg.MaxBytes = 16 * cfg.SegmentBytes
	i := startIndexedLog(t, dir, cfg)
	var written atomic.Int64
	write := func(to int) {
		t.Helper()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for k := written.Add(1); k <= int64(to); k = written.Add(1) {
					i.appendSoon(t, int(k))
				}
				written.Add(-1)
			})
		}
		all.Wait()
	}
	sizes := func(what string) (memory, index int64) {
		memory = resident(t)
		for _, suffix := range []string{"", "-wal"} {
			if info, err := os.Stat(filepath.Join(dir, "index.db"+suffix)); err == nil {
				index += info.Size()
			}
		}
		t.Logf("%-24s %4d MiB in memory, the index takes %d KiB and lags by %d records", what, memory>>20, index>>10, i.lag())
		return memory, index
	}
	write(n / 2)
	i.current(t)
	early, small := sizes("half of the records")
	began := time.Now()
	write(n)
	took := time.Since(began)
	i.current(t)
	late, large := sizes("all")
	held := i.log.Held()
	t.Logf("%d records, %d segments of %d KiB were removed, the oldest record is %d; %.0f records/s", n, held.Removed, cfg.SegmentBytes>>10, held.Oldest, float64(n-n/2)/took.Seconds())
	if late > early+64<<20 {
		t.Errorf("after half of the records %d MiB are in memory, at the end %d", early>>20, late>>20)
	}
	if large > 2*small+8<<20 {
		t.Errorf("after half of the records the index takes %d KiB, at the end %d", small>>10, large>>10)
	}

	eventually(t, "what was removed is forgotten", func() bool { return i.rowsBefore(t, i.log.Held().Oldest) == 0 })
	want := map[string][]uint64{}
	first := i.log.Held().Oldest
	for r, err := range audit.Read(i.dir) {
		must(t, err)
		if r.Principal != nil {
			want[r.Principal.Tenant] = append(want[r.Principal.Tenant], r.Seq)
		}
	}
	if held.Removed == 0 || first < uint64(n/2) || want["rare"] == nil || len(want["acme"]) < 100 {
		t.Fatalf("the log begins at %d, and has %d and %d records", first, len(want["rare"]), len(want["acme"]))
	}
	if got := i.seqs(t, "rare", true); !slices.Equal(got, want["rare"]) {
		t.Errorf("found %v, and there are %v", got, want["rare"])
	}
	newest := slices.Clone(want["acme"])
	slices.Reverse(newest)
	if got := i.seqs(t, "acme", false); !slices.Equal(got, newest[:len(got)]) || len(got) < 100 {
		t.Errorf("of the newest %d are found, from %d", len(got), got[0])
	}
	if found, err := i.Record(t.Context(), want["acme"][0]); err != nil || found.Seq != want["acme"][0] {
		t.Errorf("the oldest is %d: %v", found.Seq, err)
	}
	i.stop()
	key, err := os.ReadFile(filepath.Join(dir, "keys", "audit.pub"))
	must(t, err)
	if report, err := audit.Verify(i.dir, string(key)); err != nil || !report.Integrity.OK || !report.Completeness.OK || report.Removed < first {
		t.Errorf("verify: %+v %v", report, err)
	}
}

// appendSoon appends the k'th record, and waits where the log is full. One of 997 is of
// another tenant.
func (i *indexed) appendSoon(t *testing.T, k int) {
	tenant := "acme"
	if k%997 == 0 {
		tenant = "rare"
	}
	for {
		_, err := i.log.Append(t.Context(), execution.Record{
			Type: execution.RecordDecided, Execution: fmt.Sprintf("ex_%d", k), Principal: &execution.Principal{Tenant: tenant, Subject: fmt.Sprint("ak_", k%6)},
			Decided: &execution.Decided{Decision: execution.Decision{Effect: execution.EffectDeny}},
		})
		if err == nil {
			return
		}
		if execution.KindOf(err) != execution.KindUnavailable || t.Context().Err() != nil {
			t.Error(err)
			return
		}
		time.Sleep(time.Millisecond) // until retention has made room
	}
}

// seqs are the numbers of up to 200 of a tenant's records that are found.
func (i *indexed) seqs(t *testing.T, tenant string, oldest bool) (seqs []uint64) {
	t.Helper()
	page, err := i.Find(t.Context(), execution.RecordQuery{
		Filter: execution.RecordFilter{Values: map[execution.TermKind]string{execution.TermTenant: tenant}}, Oldest: oldest, Most: 200,
	})
	must(t, err)
	for _, r := range page.Records {
		seqs = append(seqs, r.Seq)
	}
	return seqs
}

// rowsBefore counts the rows of the index that have nothing but records before number
// first. Its blocks are of 16,384 records, its chunks of 1,024.
func (i *indexed) rowsBefore(t *testing.T, first uint64) (rows int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(filepath.Dir(i.dir), "index.db")+busy)
	must(t, err)
	defer db.Close()
	must(t, db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM blocks WHERE block < ?1) + (SELECT count(*) FROM postings WHERE block < ?1) +
		(SELECT count(*) FROM times WHERE chunk < ?1 * 16)`, int64(first>>14)).Scan(&rows))
	return rows
}

// resident is what the process has in memory, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var all, pages int64
	if _, err := fmt.Sscan(string(text), &all, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
