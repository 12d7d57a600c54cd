package executor_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// BenchmarkWarmExecution is a program in a sandbox that was started ahead: where
// nothing can be carried and no sandbox has an authority, where each has one, and
// where the program trusts it.
func BenchmarkWarmExecution(b *testing.B) {
	for _, c := range []struct {
		name    string
		change  func(*executor.Config)
		network execution.Network
	}{
		{"no egress", func(*executor.Config) {}, execution.Network{}},
		{"no network", carriedBy(&echo{}), execution.Network{}},
		{"network", carriedBy(&echo{}), reaching(443)},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := newExecutor(b, warm(2), c.change)
			image, err := e.Resolve(b.Context(), "", "python")
			if err != nil {
				b.Fatal(err)
			}
			var took []float64
			b.ResetTimer()
			for n := range b.N {
				b.StopTimer()
				untilParked(b, e, 2)
				job := python("")
				job.ID = fmt.Sprintf("ex_%s_%d_%d", b.Name(), b.N, n)
				job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Network: c.network}
				b.StartTimer()
				began := time.Now()
				r, err := e.Execute(b.Context(), job)
				took = append(took, time.Since(began).Seconds()*1000)
				if err != nil || !r.Usage.Warm {
					b.Fatal(err, describe(r))
				}
			}
			slices.Sort(took)
			b.ReportMetric(took[0], "ms/least")
			b.ReportMetric(took[len(took)/2], "ms/median")
		})
	}
}
