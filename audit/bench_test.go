package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/sys/unix"
)

// The figures to hold, all with fdatasync on a real disk:
// 30,000 records/s at 64 writers with p99 under 10 ms, one writer within 20 %
// of raw fdatasync, and verifying at 500 MB/s. Run them with
//
//	go test ./audit -run '^$' -bench . -benchtime 3s
//
// in a folder on a disk (TMPDIR), not on tmpfs.

// BenchmarkAppend measures records per second and the wait of each.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64, 1000} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			cfg := inState(b.TempDir())
			cfg.SegmentBytes = defaultSegmentBytes
			l, stop := running(b, cfg)
			rec := decided(1, execution.EffectDeny)
			waits := make([][]time.Duration, writers)
			var all sync.WaitGroup
			b.ResetTimer()
			for w := range writers {
				count := b.N / writers
				if w < b.N%writers {
					count++
				}
				waits[w] = make([]time.Duration, 0, count)
				all.Go(func() {
					for range count {
						begin := time.Now()
						if _, err := l.Append(b.Context(), rec); err != nil {
							b.Error(err)
							return
						}
						waits[w] = append(waits[w], time.Since(begin))
					}
				})
			}
			all.Wait()
			b.StopTimer()
			stop()
			report(b, slices.Concat(waits...))
		})
	}
}

// BenchmarkOneWriterAgainstRaw writes the same number of bytes to the same disk
// in turns: once through the log, once with pwrite and fdatasync alone. The
// ratio of the medians is what the log costs; 1.2 is the goal. What it costs is
// mostly handing the record to the writer and the answer back, two wake-ups of
// an idle thread: a caller that wrote by itself could not give up on a disk that
// hangs.
func BenchmarkOneWriterAgainstRaw(b *testing.B) {
	turns := newTurns(b)
	var raw, logged []time.Duration
	for b.Loop() {
		// Blocks of many, so that each side finds the caches and the disk as
		// its own last write left them.
		for range 50 {
			raw = append(raw, turns.raw())
		}
		for range 50 {
			logged = append(logged, turns.logged())
		}
	}
	turns.report(raw, logged)
}

// BenchmarkOneWriterOnABusyMachine is BenchmarkOneWriterAgainstRaw, of those writes
// alone whose thread did not wait for a processor.
func BenchmarkOneWriterOnABusyMachine(b *testing.B) {
	turns := newTurns(b)
	var raw, logged []time.Duration
	keep := func(kept []time.Duration, write func() time.Duration) []time.Duration {
		thread, before := waited(b)
		took := write()
		if same, after := waited(b); same == thread && after-before < 4*time.Microsecond {
			return append(kept, took)
		}
		return kept
	}
	for b.Loop() {
		for range 50 {
			raw = keep(raw, turns.raw)
		}
		for range 50 {
			logged = keep(logged, turns.logged)
		}
	}
	if len(raw) == 0 || len(logged) == 0 {
		b.Skip("each write waited for a processor")
	}
	turns.report(raw, logged)
	b.ReportMetric(float64(len(raw)), "raw-kept")
	b.ReportMetric(float64(len(logged)), "log-kept")
}

// waited is this thread, and how long it has waited for a processor so far.
func waited(b *testing.B) (thread int, total time.Duration) {
	thread = unix.Gettid()
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		b.Fatal(err)
	}
	var ran int64
	if _, err := fmt.Sscan(string(text), &ran, &total); err != nil {
		b.Fatal(err)
	}
	return thread, total
}

// turns writes a record through a log, and as many bytes to a file beside it.
type turns struct {
	b    *testing.B
	log  *Log
	stop func()
	rec  execution.Record
	file File
	line []byte
	off  int64
}

func newTurns(b *testing.B) *turns {
	cfg := inState(b.TempDir())
	cfg.SegmentBytes = defaultSegmentBytes
	t := &turns{b: b, rec: decided(1, execution.EffectDeny)}
	t.log, t.stop = running(b, cfg)
	e, err := newEntry(t.rec)
	if err != nil {
		b.Fatal(err)
	}
	t.line = make([]byte, batchHeaderBytes+e.bytes())
	for i := range t.line {
		t.line[i] = byte(i)
	}
	t.file, err = osFileSystem{}.OpenFile(filepath.Join(filepath.Dir(cfg.Dir), "raw"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { t.file.Close() })
	if err := t.file.Allocate(defaultSegmentBytes); err != nil {
		b.Fatal(err)
	}
	return t
}

func (t *turns) raw() time.Duration {
	begin := time.Now()
	if _, err := t.file.WriteAt(t.line, t.off); err != nil {
		t.b.Fatal(err)
	}
	if err := t.file.Datasync(); err != nil {
		t.b.Fatal(err)
	}
	took := time.Since(begin)
	t.off = (t.off + int64(len(t.line))) % (defaultSegmentBytes - int64(len(t.line)))
	return took
}

func (t *turns) logged() time.Duration {
	begin := time.Now()
	if _, err := t.log.Append(t.b.Context(), t.rec); err != nil {
		t.b.Fatal(err)
	}
	return time.Since(begin)
}

func (t *turns) report(raw, logged []time.Duration) {
	t.stop()
	mr, ml := quantile(raw, 0.5), quantile(logged, 0.5)
	t.b.ReportMetric(float64(mr.Nanoseconds())/1e3, "raw-µs")
	t.b.ReportMetric(float64(ml.Nanoseconds())/1e3, "log-µs")
	t.b.ReportMetric(float64(ml)/float64(mr), "ratio-p50")
	t.b.ReportMetric(float64(sum(logged))/float64(sum(raw)), "ratio-mean")
	t.b.ReportMetric(0, "ns/op")
}

// BenchmarkBeginning measures what an execution's records take, alternately with the
// one that nobody waits for between the others and without it.
func BenchmarkBeginning(b *testing.B) {
	cfg := inState(b.TempDir())
	cfg.SegmentBytes = defaultSegmentBytes
	l, stop := running(b, cfg)
	var without, with []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		seq := mustAppend(b, l, decided(i, execution.EffectAllow))
		if i%2 == 0 {
			mustAppend(b, l, ended(i, seq))
			without = append(without, time.Since(begin))
			continue
		}
		l.AppendLater(started(i, seq), func(err error) { b.Error(err) })
		mustAppend(b, l, ended(i, seq))
		with = append(with, time.Since(begin))
	}
	stop()
	if len(with) == 0 {
		return // the first of a run by time is alone
	}
	mo, mw := quantile(without, 0.5), quantile(with, 0.5)
	b.ReportMetric(float64(mo.Nanoseconds())/1e3, "without-µs")
	b.ReportMetric(float64(mw.Nanoseconds())/1e3, "with-µs")
	b.ReportMetric(float64(mw)/float64(mo), "ratio-p50")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVerify measures checking a cold copy.
func BenchmarkVerify(b *testing.B) {
	cfg, verifier := largeLog(b)
	for b.Loop() {
		report := mustVerify(b, cfg, verifier)
		b.SetBytes(report.Bytes)
	}
}

// BenchmarkProve measures proving the first record, for which all others are read,
// and the last, for which one segment is. What is allocated does not grow with the
// log but for the reading of each segment.
func BenchmarkProve(b *testing.B) {
	cfg, verifier := largeLog(b)
	for name, seq := range map[string]uint64{"first": 0, "last": largeRecords - 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustProve(b, cfg, verifier, ProveOptions{Seq: &seq})
			}
		})
	}
}

const largeRecords = 384_000

// largeLog returns a closed log of largeRecords records in segments of the usual size.
func largeLog(b *testing.B) (cfg Config, verifier string) {
	cfg = inState(b.TempDir())
	cfg.SegmentBytes = defaultSegmentBytes
	l, stop := running(b, cfg)
	rec := decided(1, execution.EffectDeny)
	var all sync.WaitGroup
	for range 256 {
		all.Go(func() {
			for range largeRecords / 256 {
				if _, err := l.Append(b.Context(), rec); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	stop()
	return cfg, l.Verifier()
}

func report(b *testing.B, waits []time.Duration) {
	b.ReportMetric(float64(len(waits))/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(quantile(waits, 0.5).Nanoseconds())/1e6, "p50-ms")
	b.ReportMetric(float64(quantile(waits, 0.99).Nanoseconds())/1e6, "p99-ms")
}

func quantile(waits []time.Duration, q float64) time.Duration {
	slices.Sort(waits)
	return waits[int(float64(len(waits)-1)*q)]
}

func sum(waits []time.Duration) (total time.Duration) {
	for _, w := range waits {
		total += w
	}
	return total
}
