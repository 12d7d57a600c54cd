package main

import (
	"context"
	"flag"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
)

var idleSandboxes = flag.Int("idle", 100, "how many sandboxes BenchmarkEgressIdle has at once")

// mostIdle is the most that a sandbox may take in the gateway while it waits, with a
// connection that is intercepted and has carried a request; in bytes.
const mostIdle = 256 << 10

// Under the race detector, which makes stacks larger, and few are measured less exactly
// than a hundred: there is a quarter more.
func TestIdleSandboxIsSmall(t *testing.T) {
	const most = mostIdle * 5 / 4
	if each, _ := newEgressWorld(t, false).idle(12); each > most {
		t.Errorf("an idle sandbox takes %d bytes, at most %d", each, most)
	}
}

// BenchmarkEgressIdle is what one of many sandboxes takes in the gateway while it
// waits: heap and stacks, and how much the process has grown for each.
func BenchmarkEgressIdle(b *testing.B) {
	for b.Loop() {
		each, resident := newEgressWorld(b, false).idle(*idleSandboxes)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(each)/1024, "KiB/sandbox")
		b.ReportMetric(float64(resident)/1024, "resident-KiB/sandbox")
		if max(each, resident) > mostIdle {
			b.Errorf("an idle sandbox takes %d bytes, the process grows by %d for each, at most %d", each, resident, mostIdle)
		}
	}
}

// idle has n sandboxes each keep a connection that has carried a request, beside one
// that was there before, and returns what each of them takes.
func (w *egressWorld) idle(n int) (each, resident int64) {
	w.tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	begin := func() {
		job := w.job(execution.DecideGrant, "-hold", "-connections", "1", "-url", w.address(), "-contains", "[redacted]")
		job.Grant.Limits.MemoryMiB, job.Grant.Limits.CPUMillis = 64, 500
		all.Go(func() {
			if result, err := w.execute(ctx, job); ctx.Err() == nil {
				w.tb.Errorf("it does not wait: %v, %s %s", err, result.Outcome, result.Stderr)
			}
		})
	}
	answered := egress.RequestOutcome{Outcome: egress.Outcome{Effect: execution.EffectAllow}, Status: "2xx"}
	waiting := func(n int) {
		w.tb.Helper()
		eventually(w.tb, "the sandboxes wait", func() bool {
			return w.broker.Stats().Requests[answered] >= uint64(n) || w.tb.Failed()
		})
	}
	begin()
	waiting(1)
	heap, process := inUse(), w.resident()
	for i := range n {
		begin()
		waiting(i + 2 - min(i, 3)) // four are started at once
	}
	waiting(n + 1)
	return (inUse() - heap) / int64(n), (w.resident() - process) / int64(n)
}

// inUse is what heap and stacks take up, in bytes, once nothing has happened for a few
// collections: each halves stacks that have become too large.
func inUse() int64 {
	for range 5 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// resident is what the process takes up, in bytes, from proc(5).
func (w *egressWorld) resident() int64 {
	w.tb.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	w.must(err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	w.must(err)
	return pages * int64(os.Getpagesize())
}
