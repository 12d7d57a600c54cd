package policy_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/execgate/execgate/policy"
)

// BenchmarkReload is what decisions cost while a bundle of 5,000 tenants is put
// in force again and again, beside what they cost in the same process while none
// is. No decision may fail.
func BenchmarkReload(b *testing.B) {
	first, second := bundleOf(b, 5000), bundleOf(b, 4999)
	engine := newEngine(b, unhurried, first)
	q := question()
	measure := func() []time.Duration {
		took := make([]time.Duration, 0, 4000)
		for range cap(took) {
			begin := time.Now()
			if d := engine.Decide(context.Background(), q); !d.Allowed() {
				b.Fatalf("denied: %+v", d.Reasons)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		return took
	}
	for b.Loop() {
		quiet := measure()
		ctx, stop := context.WithCancel(context.Background())
		reloaded := make(chan int)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				bundle := []policy.Bundle{first, second}[n%2]
				if _, err := engine.Activate(context.Background(), bundle); err != nil {
					b.Error(err)
				}
			}
			reloaded <- n
		}()
		busy := measure()
		stop()
		b.ReportMetric(float64(<-reloaded), "reloads")
		p99 := len(quiet) * 99 / 100
		b.ReportMetric(micros(quiet[len(quiet)/2]), "quiet-p50-µs")
		b.ReportMetric(micros(quiet[p99]), "quiet-p99-µs")
		b.ReportMetric(micros(busy[len(busy)/2]), "reload-p50-µs")
		b.ReportMetric(micros(busy[p99]), "reload-p99-µs")
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// BenchmarkTenantsInMemory is what an engine holds for so many tenants: in the
// organisation's data, and as bundles of their own. The latter stand with their
// files; workers hold the compiled form of those that they were asked about.
func BenchmarkTenantsInMemory(b *testing.B) {
	for _, tenants := range []int{100, 5000} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				engine := newEngine(b, unhurried, bundleOf(b, tenants))
				b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
				runtime.KeepAlive(engine)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one found is given back
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
