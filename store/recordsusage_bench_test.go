package store_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// BenchmarkUsage asks for usage of a year without naming a day: of one principal, of a
// tenant, of a name in every tenant, and of all, as far as one answer has room.
//
//	go test ./store -run '^$' -bench Usage -benchtime 20x
func BenchmarkUsage(b *testing.B) {
	days, tenants, subjects := 365, 20, 25
	if testing.Short() {
		days = 30
	}
	r, err := store.OpenRecords(b.Context(), filepath.Join(b.TempDir(), "index.db"), someLog, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	seq := uint64(0)
	for day := range days {
		var records []execution.Record
		for n := range tenants * subjects {
			records = append(records, execution.Record{
				Seq: seq, Time: epoch.AddDate(0, 0, day), Type: execution.RecordEnded,
				Principal: &execution.Principal{Tenant: fmt.Sprintf("tenant-%d", n/subjects), Subject: fmt.Sprintf("ak_%d", n%subjects)},
				Ended: &execution.Ended{
					Outcome: execution.OutcomeExited, Usage: execution.Usage{WallMS: 10, CPUMS: 5, PeakMemoryMiB: 30, EgressRequests: 1, EgressBytes: 900},
				},
			})
			seq++
		}
		addRecords(b, r, records)
	}
	for name, q := range map[string]execution.MeterQuery{
		"principal": {Tenant: "tenant-7", Subject: "ak_3"}, "tenant": {Tenant: "tenant-7"}, "subject": {Subject: "ak_3"}, "all": {},
	} {
		b.Run("of="+name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began, n := time.Now(), 0
				if err := r.Usage(b.Context(), q, func(execution.Metered) bool { n++; return n < 1000 }); err != nil || n == 0 {
					b.Fatal(n, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median_ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "slowest_ms")
		})
	}
}
