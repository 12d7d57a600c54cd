package main

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// BenchmarkEgressRate is how many requests one sandbox can make in a second, over
// connections that stay, each intercepted, keyed, scrubbed and recorded on the disk
// twice, beside the same program making the same requests directly. The processor time
// of a request is told apart by who has used it: the gateway, the program in the
// sandbox, the destination.
func BenchmarkEgressRate(b *testing.B) {
	for _, c := range []struct {
		name   string
		http2  bool
		decide execution.NetworkDecide
	}{
		{"grant decides", false, execution.DecideGrant},
		{"grant decides, HTTP 2 to the destination", true, execution.DecideGrant},
		{"policy decides", false, execution.DecideRequest},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newEgressWorld(b, c.http2)
			const requests, connections = 20_000, 16
			load := []string{"-requests", strconv.Itoa(requests), "-connections", strconv.Itoa(connections)}
			for b.Loop() {
				direct := w.direct(load...)
				upstream, gateway := w.cpuOf(w.upstream.Pid), ownCPU()
				result, err := w.execute(b.Context(), w.job(c.decide, append(load, "-url", w.address(), "-contains", "Bearer [redacted]")...))
				if err != nil || result.Outcome != execution.OutcomeExited || *result.ExitCode != 0 {
					b.Fatalf("%v, %s: %s %s", err, result.Outcome, result.Stdout, result.Stderr)
				}
				upstream, gateway = w.cpuOf(w.upstream.Pid)-upstream, ownCPU()-gateway
				brokered := w.read(result.Stdout)
				if brokered.Requests != requests || result.Usage.EgressRequests != requests {
					b.Fatalf("%+v, %+v", brokered, result.Usage)
				}
				each := func(used time.Duration) float64 { return float64(used.Microseconds()) / requests }
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(requests/brokered.Seconds, "requests/s")
				b.ReportMetric(requests/direct.Seconds, "direct/s")
				b.ReportMetric(direct.Seconds/brokered.Seconds, "of-direct")
				b.ReportMetric(float64(brokered.MedianMicros)/1000, "p50-ms")
				b.ReportMetric(float64(brokered.P99Micros)/1000, "p99-ms")
				b.ReportMetric(each(gateway), "gateway-µs/request")
				b.ReportMetric(each(time.Duration(brokered.CPUSeconds*float64(time.Second))), "program-µs/request")
				b.ReportMetric(each(upstream), "destination-µs/request")
			}
		})
	}
}

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
