package audit

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

// large is a decision that denies, of which few make a segment.
func large(n int) execution.Record {
	rec := decided(n, execution.EffectDeny)
	rec.Decided.CodeSHA256 = strings.Repeat("p", 6<<10)
	return rec
}

// eventually waits for what goes on beside.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		late := time.Now().After(end)
		if is() {
			return
		}
		if late {
			t.Fatalf("after %v: %s", patience, what)
		}
	}
}

// grow appends until the log has begun n further segments.
func grow(t testing.TB, l *Log, n uint64) {
	t.Helper()
	_, sealed := l.writer.tip.snapshot()
	for at := sealed; at < sealed+n; _, at = l.writer.tip.snapshot() {
		mustAppendSoon(t, l, large(1))
	}
}

// within waits until the log takes no more than it may.
func within(t testing.TB, l *Log) {
	t.Helper()
	eventually(t, "the log takes more than it may", func() bool { return l.Held().Bytes <= l.cfg.MaxBytes-2*l.cfg.SegmentBytes })
}

// removals are the records of what was removed.
func removals(t testing.TB, dir string) (found []execution.SegmentsRemoved) {
	t.Helper()
	for rec, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.SegmentsRemoved != nil {
			found = append(found, *rec.SegmentsRemoved)
		}
	}
	return found
}

// The log stays within its size, says what it removed before it does, and what is
// left is read, followed, verified and continued as any log.
func TestRetentionBySize(t *testing.T) {
	cfg := small(t)
	l, stop := running(t, cfg)
	for range 4 {
		grow(t, l, 5)
		within(t, l)
	}
	held := l.Held()
	if held.Removed < 17 || held.Segments > 2 || held.Oldest == 0 {
		t.Errorf("held: %+v", held)
	}
	last := mustAppend(t, l, decided(1, execution.EffectDeny))
	if got := followed(t, l, 0, last); got[0].Seq != held.Oldest {
		t.Errorf("who follows begins with record %d, want %d", got[0].Seq, held.Oldest)
	}
	for _, removed := range removals(t, cfg.Dir) {
		if removed.Reason != execution.RemovedBySize || len(removed.Files) == 0 || removed.Bytes != int64(len(removed.Files))*minSegmentBytes || removed.Last < removed.First {
			t.Errorf("removed: %+v", removed)
		}
	}
	stop()
	report := mustVerify(t, cfg, l.Verifier())
	if report.Removed != held.Oldest || len(report.Completeness.Notes) != 1 || !strings.Contains(report.Completeness.Notes[0].Problem, "gone by retention") {
		t.Errorf("report: %+v", report)
	}
	for rec, err := range Read(cfg.Dir) {
		if err != nil || rec.Seq != held.Oldest {
			t.Errorf("the first record is %d, want %d: %v", rec.Seq, held.Oldest, err)
		}
		break
	}
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "0*"+checkpointSuffix))
	if len(names) > held.Segments {
		t.Errorf("checkpoints are left: %v", names)
	}
	l, stop = running(t, cfg)
	if got := mustAppend(t, l, decided(2, execution.EffectDeny)); got != last+1 {
		t.Errorf("the next record is %d, want %d", got, last+1)
	}
	grow(t, l, 5)
	within(t, l)
	stop()
	mustVerify(t, cfg, l.Verifier())
}

func TestRetentionByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := small(t)
		cfg.MaxBytes, cfg.RetainAge = 0, time.Hour
		l, stop := running(t, cfg)
		grow(t, l, 3)
		time.Sleep(30 * time.Minute) // of the bubble's clock
		grow(t, l, 2)
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		// The third was sealed with the second half hour's first records.
		if held := l.Held(); held.Removed != 3 || held.Segments != 3 {
			t.Errorf("held: %+v", held)
		}
		if found := removals(t, cfg.Dir); len(found) != 1 || found[0].Reason != execution.RemovedByAge || len(found[0].Files) != 3 || found[0].First != 0 {
			t.Errorf("removed: %+v", found)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if held := l.Held(); held.Segments != 1 {
			t.Errorf("what is written now was not kept alone: %+v", held)
		}
		stop()
		mustVerify(t, cfg, l.Verifier())
	})
}

// What no sink has, or holds the decision of an open execution, stays: the log is
// then full, and says why. What runs can be ended, and once the cause has gone the
// log goes on by itself.
func TestRetentionKeepsWhatIsNeeded(t *testing.T) {
	type pin struct {
		name string
		hold Hold
		set  func(cfg *Config)
		pin  func(t *testing.T, l *Log) (release func())
	}
	var acknowledged, indexed atomic.Uint64
	for _, c := range []pin{
		{"refuse", "", func(cfg *Config) { cfg.DropExported = false }, func(t *testing.T, l *Log) func() { return nil }},
		{"the index", HeldByIndex, func(cfg *Config) { cfg.Indexed = indexed.Load }, func(*testing.T, *Log) func() {
			return func() { indexed.Store(math.MaxUint64) }
		}},
		{"a sink", HeldByExporters, func(cfg *Config) { cfg.Exported = acknowledged.Load }, func(*testing.T, *Log) func() {
			return func() { acknowledged.Store(math.MaxUint64) }
		}},
		{"an open execution", HeldByExecution, func(*Config) {}, func(t *testing.T, l *Log) func() {
			seq := mustAppend(t, l, decided(1, execution.EffectAllow))
			return func() { mustAppend(t, l, ended(1, seq)) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := small(t)
			c.set(&cfg)
			l, stop := running(t, cfg)
			release := c.pin(t, l)
			under := mustAppend(t, l, decided(2, execution.EffectAllow))
			var err error
			for err == nil {
				_, err = l.Append(t.Context(), large(3))
			}
			if e := err.(*execution.Error); e.Code != "audit_unavailable" || !strings.Contains(e.Detail, "audit.max_mib") {
				t.Errorf("refused: %v", err)
			}
			for err == nil || execution.KindOf(l.Ready(t.Context())) != execution.KindUnavailable {
				_, err = l.Append(t.Context(), decided(4, execution.EffectDeny)) // until it is full for small ones too
			}
			if held := l.Held(); held.Removed != 0 || held.Bytes != cfg.MaxBytes || held.Oldest != 0 {
				t.Errorf("held: %+v", held)
			}
			eventually(t, "it does not say what waits for what", func() bool {
				held := l.Held()
				return held.For == c.hold && (held.Waiting > 0) == (c.hold != "")
			})
			mustAppend(t, l, ended(2, under))
			if release == nil {
				stop()
				mustVerify(t, cfg, l.Verifier())
				cfg.MaxBytes *= 2
				l, stop = running(t, cfg)
			} else {
				release()
			}
			mustAppendSoon(t, l, large(5))
			grow(t, l, 2)
			if release != nil {
				within(t, l)
			}
			stop()
			mustVerify(t, cfg, l.Verifier())
		})
	}
}

// A log that is far past its size, because that was made smaller, and full as well, has
// room for the records of all that has to go.
func TestRetentionOfALogThatIsFarTooLarge(t *testing.T) {
	cfg := small(t)
	cfg.MaxBytes, cfg.DropExported = 0, false
	l, stop := running(t, cfg)
	grow(t, l, 5*execution.MaxRecordSegments)
	stop()
	cfg.MaxBytes, cfg.DropExported = 4*minSegmentBytes, true
	var exported atomic.Uint64
	cfg.Exported = exported.Load
	l, stop = running(t, cfg)
	for _, size := range []int{6 << 10, 0} {
		rec := decided(1, execution.EffectDeny)
		rec.Decided.CodeSHA256 = strings.Repeat("p", size)
		var err error
		for err == nil {
			_, err = l.Append(t.Context(), rec)
		}
	}
	exported.Store(math.MaxUint64)
	within(t, l)
	mustAppendSoon(t, l, decided(1, execution.EffectDeny))
	stop()
	mustVerify(t, cfg, l.Verifier())
}

// A removal may stop at any step: recorded and nothing removed, or half of it. The
// log starts, verifies, and ends what was begun.
func TestARemovalThatStops(t *testing.T) {
	for _, after := range []int{0, 1, 2} {
		disk := &faulty{}
		cfg := small(t)
		cfg.MaxBytes, cfg.DropExported, cfg.FileSystem = 0, false, disk
		l, stop := running(t, cfg)
		grow(t, l, 6)
		stop()
		removed := 0
		disk.set(func(op string, _ int) fault1 {
			if op != "remove" {
				return fault1{}
			}
			if removed++; removed > after+1 { // New sweeps a spare
				return fault1{err: syscall.EIO}
			}
			return fault1{}
		})
		cfg.MaxBytes, cfg.DropExported = 4*minSegmentBytes, true
		l, stop = running(t, cfg)
		eventually(t, "nothing failed", func() bool { disk.mu.Lock(); defer disk.mu.Unlock(); return disk.hits > 0 })
		stop()
		if got, want := len(removals(t, cfg.Dir)), 1; got != want {
			t.Errorf("%d records of a removal, want %d", got, want)
		}
		report := mustVerify(t, cfg, l.Verifier())
		if (report.Removed > 0) != (l.Held().Removed > 0) {
			t.Errorf("after %d: %+v %+v", after, report, l.Held())
		}
		disk.set(nil)
		l, stop = running(t, cfg)
		within(t, l)
		if got, want := len(removals(t, cfg.Dir)), 1; got != want {
			t.Errorf("%d records of a removal, want %d: what is recorded is not recorded again", got, want)
		}
		stop()
		mustVerify(t, cfg, l.Verifier())
	}
}

// A segment that has its name and was given up does not outlive those before it.
func TestRetentionRemovesWhatWasGivenUp(t *testing.T) {
	disk := &faulty{}
	cfg := small(t)
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	grow(t, l, 1)
	disk.set(func(op string, _ int) fault1 {
		switch op {
		case "rename", "remove":
			return fault1{err: syscall.EIO, late: op == "rename"}
		}
		return fault1{}
	})
	eventually(t, "no segment was given up", func() bool {
		_, _ = l.Append(t.Context(), large(1))
		return len(segments(t, cfg)) >= 3 && l.Ready(t.Context()) != nil
	})
	disk.set(nil)
	grow(t, l, 4)
	within(t, l)
	if got, want := len(segments(t, cfg)), l.Held().Segments; got != want {
		t.Errorf("%d files are left of %d segments", got, want)
	}
	stop()
	mustVerify(t, cfg, l.Verifier())
}

// A first segment in which nothing was acknowledged is removed without a record, and
// nothing is missing.
func TestRetentionRemovesAnEmptyBeginning(t *testing.T) {
	disk := &faulty{}
	cfg := small(t)
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	failOnce(disk, "datasync")
	if _, err := l.Append(t.Context(), decided(1, execution.EffectDeny)); err == nil {
		t.Fatal("the first record was acknowledged")
	}
	// The segment that replaces the first, which may be there already, and one more.
	for sealed := uint64(0); sealed < 2; _, sealed = l.writer.tip.snapshot() {
		mustAppendSoon(t, l, large(1))
	}
	within(t, l)
	stop()
	if left := segments(t, cfg); left[0] != 2 {
		t.Fatalf("the segments %v are left, and the first alone is to go", left)
	}
	mustVerify(t, cfg, l.Verifier())
}

// A log in which nothing happens says so.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := small(t)
		cfg.Heartbeat = 5 * time.Minute
		l, stop := running(t, cfg)
		for range 10 { // no heartbeat while there are records
			time.Sleep(time.Minute) // of the bubble's clock
			mustAppend(t, l, decided(1, execution.EffectDeny))
		}
		open := mustAppend(t, l, decided(2, execution.EffectAllow))
		time.Sleep(16 * time.Minute)
		mustAppend(t, l, ended(2, open))
		stop()
		var beats []execution.Heartbeat
		for rec, err := range Read(cfg.Dir) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Heartbeat != nil {
				beats = append(beats, *rec.Heartbeat)
			}
		}
		if len(beats) != 3 || beats[0].EveryS != 300 || beats[0].UptimeS < 900 || beats[0].Records != 11 || beats[1].Records != 12 || beats[0].Open != 1 || beats[0].Segments != 1 || beats[0].Bytes != minSegmentBytes {
			t.Errorf("heartbeats: %+v", beats)
		}
		mustVerify(t, cfg, l.Verifier())
	})
	for _, kind := range []execution.RecordType{execution.RecordHeartbeat, execution.RecordSegmentsRemoved, execution.RecordGap} {
		if _, err := newEntry(execution.Record{Type: kind}); err == nil {
			t.Errorf("a record of the type %s was taken from outside", kind)
		}
	}
}

// Readers that are overtaken by retention go on or say so; none sees a hole.
func TestReadersBesideRetention(t *testing.T) {
	cfg := small(t)
	l, stop := running(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			next := uint64(0)
			for rec, err := range Read(cfg.Dir) {
				if err != nil {
					if !strings.Contains(err.Error(), "no such file") {
						t.Error(err)
					}
					break
				}
				if next != 0 && rec.Seq != next {
					t.Errorf("record %d follows where %d should", rec.Seq, next)
				}
				next = rec.Seq + 1
			}
		}
	}()
	verified := make(chan struct{})
	go func() {
		defer close(verified)
		for ctx.Err() == nil {
			report, err := Verify(cfg.Dir, l.Verifier())
			if err != nil && !strings.Contains(err.Error(), "no such file") || err == nil && !report.Integrity.OK {
				t.Errorf("verify: %+v %v", report.Integrity, err)
			}
		}
	}()
	grow(t, l, 60)
	cancel()
	<-done
	<-verified
	stop()
	mustVerify(t, cfg, l.Verifier())
}

// What waits for a moment is not told, and what waits for longer once.
func TestWaitingIsToldOnce(t *testing.T) {
	var w waiting
	at := time.Unix(0, 0)
	for i, step := range []struct {
		after    time.Duration
		why      Hold
		segments int
		tell     bool
	}{
		{0, HeldByIndex, 1, false}, {time.Minute - 1, HeldByIndex, 2, false}, {1, HeldByIndex, 2, true}, {time.Hour, HeldByIndex, 9, false},
		{time.Second, HeldByExporters, 9, false}, {time.Minute, HeldByExporters, 9, true}, {1, HeldByExporters, 0, false},
		{time.Hour, HeldByExporters, 1, false}, {time.Minute, HeldByExporters, 1, true}, {time.Hour, "", 0, false},
	} {
		at = at.Add(step.after)
		if w.note(step.why, step.segments, at) != step.tell {
			t.Errorf("step %d: it is told: %v", i, !step.tell)
		}
		if n, why := w.now(); n != step.segments || (why == "") != (n == 0) {
			t.Errorf("step %d: %d wait for %q", i, n, why)
		}
	}
}
