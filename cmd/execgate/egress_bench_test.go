package main

import (
	"flag"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

var egressRuntimes = flag.String("runtimes", "runc,runsc", "the runtimes of BenchmarkEgressRate, which take turns")

// BenchmarkEgressRate is how many requests one sandbox can make in a second, over
// connections that stay, each intercepted, keyed, scrubbed and recorded on the disk
// twice, beside the same program making the same requests directly, under each runtime in
// turn. The processor time of a request is told apart by who has used it: the gateway, the
// program in the sandbox, the destination.
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
			each := func(used time.Duration) float64 { return float64(used.Microseconds()) / requests }
			for b.Loop() {
				direct := w.direct(load...)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(requests/direct.Seconds, "direct/s")
				var first report // of the first runtime
				for i, runtime := range strings.Split(*egressRuntimes, ",") {
					upstream, gateway := w.cpuOf(w.upstream.Pid), ownCPU()
					job := w.job(c.decide, append(load, "-url", w.address(), "-contains", "Bearer [redacted]")...)
					job.Grant.Runtime = runtime
					result, err := w.execute(b.Context(), job)
					if err != nil || result.Outcome != execution.OutcomeExited || *result.ExitCode != 0 {
						b.Fatalf("%v, %s: %s %s", err, result.Outcome, result.Stdout, result.Stderr)
					}
					upstream, gateway = w.cpuOf(w.upstream.Pid)-upstream, ownCPU()-gateway
					brokered := w.read(result.Stdout)
					if brokered.Requests != requests || result.Usage.EgressRequests != requests {
						b.Fatalf("%+v, %+v", brokered, result.Usage)
					}
					if i == 0 {
						first = brokered
					} else {
						b.ReportMetric(first.Seconds/brokered.Seconds, runtime+"-of-the-first")
					}
					b.ReportMetric(requests/brokered.Seconds, runtime+"-requests/s")
					b.ReportMetric(direct.Seconds/brokered.Seconds, runtime+"-of-direct")
					b.ReportMetric(float64(brokered.MedianMicros)/1000, runtime+"-p50-ms")
					b.ReportMetric(float64(brokered.P99Micros)/1000, runtime+"-p99-ms")
					b.ReportMetric(each(gateway), runtime+"-gateway-µs/request")
					b.ReportMetric(each(time.Duration(brokered.CPUSeconds*float64(time.Second))), runtime+"-program-µs/request")
					b.ReportMetric(each(upstream), runtime+"-destination-µs/request")
				}
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
