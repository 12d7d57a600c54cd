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

// The figures to hold: records are indexed faster than 10,000/s, and a page of 100 of
// 10,000,000 is found in less than 50 ms. It takes minutes:
//
//	go test ./store -run '^$' -bench Records -benchtime 20x
//
// -short makes it 100,000 records.

// BenchmarkRecords indexes records, and then searches them: the rare and the frequent,
// what is in no record, and filters that meet in none.
func BenchmarkRecords(b *testing.B) {
	size := 10_000_000
	if testing.Short() {
		size = 100_000
	}
	v := newInvention(29)
	v.tenants, v.step, v.skips = 200, 100*time.Millisecond, false
	r, err := store.OpenRecords(b.Context(), filepath.Join(b.TempDir(), "index.db"), someLog, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	var last execution.Record
	const batch = 1000
	spent, slowest := time.Duration(0), time.Duration(0)
	for range size / batch {
		records := v.records(batch)
		began := time.Now()
		addRecords(b, r, records)
		took := time.Since(began)
		spent, slowest = spent+took, max(slowest, took)
		last = records[batch-1]
	}
	b.Run(fmt.Sprintf("index=%d", size), func(b *testing.B) { // what was measured before
		b.ReportMetric(float64(size)/spent.Seconds(), "records/s")
		b.ReportMetric(float64(slowest.Milliseconds()), "slowest_batch_ms")
		b.ReportMetric(0, "ns/op")
	})
	values := func(kindsAndValues ...string) map[execution.TermKind]string {
		m := map[execution.TermKind]string{}
		for i := 0; i < len(kindsAndValues); i += 2 {
			m[execution.TermKind(kindsAndValues[i])] = kindsAndValues[i+1]
		}
		return m
	}
	end := epoch.Add(time.Duration(last.Seq) * v.step)
	for name, f := range map[string]execution.RecordFilter{
		"all":                {},
		"tenant":             {Values: values("tenant", "tenant-7")},
		"tenant and subject": {Values: values("tenant", "tenant-7", "subject", "ak_3")},
		"execution":          {Values: values("execution", fmt.Sprintf("ex_%026d", size/8))},
		"no such execution":  {Values: values("execution", "ex_none")},
		"no such host":       {Values: values("host", "none.example")},
		"meet in none":       {Values: values("type", "decided", "outcome", "exited")},
		"six together":       {Values: values("tenant", "tenant-7", "subject", "ak_3", "type", "decided", "effect", "deny", "tool", "jira", "host", "pypi.org")},
		"an hour":            {Since: end.Add(-2 * time.Hour), Until: end.Add(-time.Hour)},
		"tenant in an hour":  {Values: values("tenant", "tenant-7"), Since: end.Add(-2 * time.Hour), Until: end.Add(-time.Hour)},
	} {
		for _, oldest := range []bool{false, true} {
			b.Run(fmt.Sprintf("search=%s/oldest=%v", name, oldest), func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					began := time.Now()
					if _, err := r.Search(b.Context(), execution.RecordQuery{Filter: f, Oldest: oldest, Most: 100}); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median_ms")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "slowest_ms")
			})
		}
	}
}
