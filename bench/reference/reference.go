// Package reference measures benchmarks beside a fixed piece of work, so that their
// results can be compared with those of another time or machine.
package reference

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// share is the part of a benchmark's time that the fixed work takes, as 1/share.
const share = 8

// Measure runs op as often as b wants. Besides what testing reports, ref/op is how
// many times the processor time of the fixed work op takes. The two are done in turns,
// so that what else the machine does slows both, and processor time leaves out when
// neither had a processor; with -cpu 1 it is that of one. The fixed work allocates
// nothing, so allocs/op are those of op.
func Measure(b *testing.B, op func()) {
	b.Helper()
	b.ReportAllocs()
	w := newWork()
	w.do()
	var ops, works int64
	var wall, opsTook, worksTook time.Duration
	for b.Loop() {
		start, before := time.Now(), processorTime(b)
		op()
		opsTook += processorTime(b) - before
		wall += time.Since(start)
		ops++
		for worksTook < opsTook/share {
			before := processorTime(b)
			w.do()
			worksTook += processorTime(b) - before
			works++
		}
	}
	b.ReportMetric(float64(wall)/float64(ops), "ns/op") // without the fixed work
	b.ReportMetric(float64(opsTook)/float64(ops)*float64(works)/float64(worksTook), "ref/op")
}

// processorTime is what this process has had.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// work sorts the same 500 strings, some 25 µs: comparisons and jumps through memory,
// as an evaluation is, and no instruction that only some processors have.
type work struct{ unsorted, sorted []string }

func newWork() *work {
	const n = 500
	w := &work{sorted: make([]string, n)}
	for i := range n {
		w.unsorted = append(w.unsorted, "tenant-"+strconv.Itoa(i*7919%n)) // 7919 is prime: a permutation
	}
	return w
}

func (w *work) do() {
	copy(w.sorted, w.unsorted)
	slices.Sort(w.sorted)
}
