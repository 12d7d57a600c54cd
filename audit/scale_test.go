package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// scaleRecords is how many records TestScale writes: few in make test, and as many as
// EXECGATE_AUDIT_SCALE says in make bench.
func scaleRecords(t *testing.T) int {
	text := os.Getenv("EXECGATE_AUDIT_SCALE")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// resident is what the process has in memory, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("the kernel does not say what is in memory")
	return 0
}

// scale is one run of TestScale.
type scale struct {
	t     *testing.T
	names atomic.Int64 // of executions
}

// write appends n records, by 64 callers at once; each waits where the log is full.
func (s *scale) write(l *Log, n int) {
	s.t.Helper()
	var all sync.WaitGroup
	var given atomic.Int64
	for range 64 {
		all.Go(func() {
			for given.Add(2) <= int64(n) {
				name := int(s.names.Add(1))
				seq := s.append(l, decided(name, execution.EffectAllow))
				s.append(l, ended(name, seq))
			}
		})
	}
	all.Wait()
}

func (s *scale) append(l *Log, rec execution.Record) uint64 {
	for {
		seq, err := l.Append(s.t.Context(), rec)
		if err == nil {
			return seq
		}
		if !errors.Is(err, errFull) {
			s.t.Error(err)
			return 0
		}
		time.Sleep(time.Millisecond)
	}
}

// timed says how long do took.
func (s *scale) timed(what string, do func()) time.Duration {
	s.t.Helper()
	begin := time.Now()
	do()
	took := time.Since(begin)
	s.t.Logf("%-60s %8.2f s, %4d MiB in memory", what, took.Seconds(), resident(s.t)>>20)
	return took
}

// A log that has become large: memory does not grow with it, it starts as soon as a
// small one, and retention brings it back to its size and holds it there, while a sink
// that reads along holds back what it does not have.
func TestScale(t *testing.T) {
	n := scaleRecords(t)
	s := &scale{t: t}
	cfg := inState(t.TempDir())
	for cfg.SegmentBytes < int64(n/5) {
		cfg.SegmentBytes *= 2
	}
	l, stop := running(t, cfg)
	open := mustAppend(t, l, decided(0, execution.EffectAllow))
	s.timed("a tenth of the records", func() { s.write(l, n/10) })
	early := resident(t)
	took := s.timed("the rest", func() { s.write(l, n-n/10) })
	held := l.Held()
	t.Logf("%d records, %d segments of %d KiB, %d MiB; %.0f records/s", n, held.Segments, cfg.SegmentBytes>>10, held.Bytes>>20, float64(n-n/10)/took.Seconds())
	if late := resident(t); late > early+64<<20 {
		t.Errorf("after a tenth of the records %d MiB are in memory, at the end %d", early>>20, late>>20)
	}
	stop()

	var err error
	for _, bytes := range []int64{0, -1} {
		cfg.StartBytes = bytes
		const most = 20 * time.Second
		took := 2 * most
		for tries := 0; took > most && tries < 3; tries++ { // a machine that holds one up does not hold three up
			if l != nil {
				_ = l.Close() // again, where it was stopped
			}
			took = s.timed(fmt.Sprintf("start, StartBytes %d", bytes), func() { l, err = New(cfg) })
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := l.Unended(); len(got) != 1 || got[0].DecidedSeq != open {
			t.Errorf("open: %+v", got)
		}
		if took > most {
			t.Errorf("the start took %v, of a log of %d MiB", took, held.Bytes>>20)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}

	// Retention, with a sink that reads along and does not acknowledge for a while.
	cfg.MaxBytes, cfg.DropExported = max(8*cfg.SegmentBytes, held.Bytes/16/cfg.SegmentBytes*cfg.SegmentBytes), true
	var exported atomic.Uint64
	var holding atomic.Bool
	cfg.Exported = exported.Load
	holding.Store(true)
	l, stop = running(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	sink := make(chan struct{})
	seen := uint64(0)
	go func() {
		defer close(sink)
		for batch, err := range l.Follow(ctx, 0) {
			if err != nil {
				t.Error(err)
				return
			}
			seen += uint64(len(batch))
			if !holding.Load() {
				exported.Store(batch[len(batch)-1].Seq + 1)
			}
		}
	}()
	if _, err := l.Append(t.Context(), decided(-1, execution.EffectDeny)); err == nil {
		// There is room in the last segment; it is soon used up.
		for err == nil {
			_, err = l.Append(t.Context(), decided(-1, execution.EffectDeny))
		}
	}
	if got := l.Held(); got.Removed != 0 {
		t.Errorf("%d segments were removed that the sink does not have", got.Removed)
	}
	holding.Store(false)
	mustAppend(t, l, ended(0, open))
	s.timed(fmt.Sprintf("retention to %d MiB, with a sink that has to read it all", cfg.MaxBytes>>20), func() {
		for l.Held().Bytes > cfg.MaxBytes { // go test's own timeout bounds it
			time.Sleep(time.Millisecond)
		}
	})
	most := int64(0)
	watching, watched := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for watching.Err() == nil {
			most = max(most, l.Held().Bytes)
			time.Sleep(time.Millisecond)
		}
	}()
	s.timed("a fifth of the records again, within that", func() { s.write(l, n/5) })
	watched()
	<-done
	if most > cfg.MaxBytes {
		t.Errorf("the log took %d bytes and may take %d", most, cfg.MaxBytes)
	}
	durable, _ := l.Progress()
	t.Logf("%d segments were removed, the oldest record of %d is %d, at the most %d MiB were taken", l.Held().Removed, durable, l.Held().Oldest, most>>20)
	cancel()
	<-sink
	if seen < uint64(n) {
		t.Errorf("the sink saw %d records", seen)
	}
	stop()
	var report Report
	s.timed("verify", func() { report = mustVerify(t, cfg, l.Verifier()) })
	if report.Removed == 0 || report.Removed+report.Records+report.Voids != report.TreeSize || report.TreeSize < durable {
		t.Errorf("report: %+v", report)
	}
	if late := resident(t); late > early+96<<20 {
		t.Errorf("after a tenth of the records %d MiB were in memory, at the end %d", early>>20, late>>20)
	}
}
