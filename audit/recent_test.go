package audit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestRecent(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	begin := time.Now().UTC()
	var want []string
	for i := range 40 {
		at := begin.Add(time.Duration(i) * time.Second)
		allow, end := decided(i, execution.EffectAllow), ended(i, 0)
		allow.Time, end.Time = at, at
		allow.Decided.CodeSHA256 = strings.Repeat("x", 6<<10) // a segment holds few
		end.Ended.DecidedSeq = mustAppend(t, l, allow)
		mustAppend(t, l, end)
		deny := decided(1000+i, execution.EffectDeny)
		deny.Time = at
		mustAppend(t, l, deny)
		if i >= 25 {
			want = append(want, allow.Execution, end.Execution)
		}
	}
	read := func(since time.Time) (got []string) {
		t.Helper()
		for r, err := range Recent(cfg.Dir, since) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Execution)
		}
		slices.Sort(got)
		return got
	}
	if got := read(begin.Add(25 * time.Second)); !slices.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	if got := read(begin); len(got) != 80 {
		t.Errorf("%d records of all, want 80", len(got))
	}
	mustAppend(t, l, execution.Record{Type: execution.RecordAuditRead, Time: begin.Add(40 * time.Second), AuditRead: &execution.AuditRead{
		What: execution.ReadRecords, Filter: map[string]string{"type": "decided"}, Effect: execution.EffectAllow,
	}})
	mustAppend(t, l, execution.Record{
		Type: execution.RecordLeaseIssued, Execution: "ex_lent", Time: begin.Add(39 * time.Second),
		Principal: &execution.Principal{Tenant: "acme", Subject: "ann"}, Lease: &execution.LeaseChange{Lease: execution.Lease{Tool: "db", ID: "l1"}},
	})
	want = append(want, "ex_lent")
	slices.Sort(want)
	if got := read(begin.Add(25 * time.Second)); !slices.Equal(got, want) {
		t.Errorf("%d records with a lease, want %d", len(got), len(want))
	}
	var decisions int
	for r, err := range Decisions(cfg.Dir, begin.Add(25*time.Second)) {
		if err != nil || r.Decided == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		decisions++
	}
	if decisions != 30 {
		t.Errorf("%d decisions, want 30: those that deny too", decisions)
	}
	// Retention removes what is still to be read. The log is stopped by then: one that runs
	// may notice that what it did not remove itself is gone.
	stop()
	before := 0
	for _, err := range Recent(cfg.Dir, begin) {
		if err != nil {
			t.Fatal(err)
		}
		if before++; before == 1 {
			for all := segments(t, cfg); len(all) > 2; all = all[1:] {
				if err := os.Remove(filepath.Join(cfg.Dir, segmentName(all[0]))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if before == 0 || before == 81 {
		t.Errorf("%d records beside retention", before)
	}
	if got := read(begin.Add(time.Hour)); got != nil {
		t.Errorf("%d records of the future", len(got))
	}
	for range Recent(cfg.Dir, begin) {
		break // and it ends
	}
	for r, err := range Recent(cfg.Dir+"/missing", begin) {
		if err == nil {
			t.Errorf("record %d of a log that is not there", r.Seq)
		}
	}
}
