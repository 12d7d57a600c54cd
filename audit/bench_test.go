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
// mostly handing the record to the writer and the answer back, for which Go wakes an
// idle thread: a caller that wrote by itself could not give up on a disk that hangs.
func BenchmarkOneWriterAgainstRaw(b *testing.B) {
	cfg := inState(b.TempDir())
	cfg.SegmentBytes = defaultSegmentBytes
	l, stop := running(b, cfg)
	rec := decided(1, execution.EffectDeny)
	e, err := newEntry(rec)
	if err != nil {
		b.Fatal(err)
	}
	line := make([]byte, batchHeaderBytes+e.bytes())
	for i := range line {
		line[i] = byte(i)
	}
	f, err := osFileSystem{}.OpenFile(filepath.Join(filepath.Dir(cfg.Dir), "raw"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Allocate(defaultSegmentBytes); err != nil {
		b.Fatal(err)
	}
	var raw, logged []time.Duration
	off := int64(0)
	for b.Loop() {
		// Blocks of many, so that each side finds the caches and the disk as
		// its own last write left them.
		for range 50 {
			begin := time.Now()
			if _, err := f.WriteAt(line, off); err != nil {
				b.Fatal(err)
			}
			if err := f.Datasync(); err != nil {
				b.Fatal(err)
			}
			raw = append(raw, time.Since(begin))
			off = (off + int64(len(line))) % (defaultSegmentBytes - int64(len(line)))
		}
		for range 50 {
			begin := time.Now()
			if _, err := l.Append(b.Context(), rec); err != nil {
				b.Fatal(err)
			}
			logged = append(logged, time.Since(begin))
		}
	}
	stop()
	mr, ml := quantile(raw, 0.5), quantile(logged, 0.5)
	b.ReportMetric(float64(mr.Nanoseconds())/1e3, "raw-µs")
	b.ReportMetric(float64(ml.Nanoseconds())/1e3, "log-µs")
	b.ReportMetric(float64(ml)/float64(mr), "ratio-p50")
	// On a busy machine most of the slower half is waiting for a processor.
	b.ReportMetric(float64(quantile(logged, 0.1))/float64(quantile(raw, 0.1)), "ratio-p10")
	b.ReportMetric(float64(sum(logged))/float64(sum(raw)), "ratio-mean")
	b.ReportMetric(0, "ns/op")
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
