package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// checker knows what was acknowledged and holds a log against it.
type checker struct {
	acked map[uint64]string // execution id by number
	open  map[uint64]bool   // decisions that allowed and whose end was not acknowledged
}

func newChecker() *checker { return &checker{acked: map[uint64]string{}, open: map[uint64]bool{}} }

// note notes an answer of Append. A refusal must be the documented one.
func (c *checker) note(t *testing.T, rec execution.Record, seq uint64, err error) bool {
	t.Helper()
	if err != nil {
		var e *execution.Error
		if !errors.As(err, &e) || e.Kind != execution.KindUnavailable || e.Code != "audit_unavailable" || e.Detail == "" {
			t.Fatalf("append answered %#v", err)
		}
		return false
	}
	c.ack(t, seq, rec.Execution)
	switch {
	case rec.Ended != nil:
		delete(c.open, rec.Ended.DecidedSeq)
	case rec.Decided != nil && rec.Decided.Decision.Allowed():
		c.open[seq] = true
	}
	return true
}

// ack notes that a record was acknowledged.
func (c *checker) ack(t *testing.T, seq uint64, id string) {
	t.Helper()
	if other, twice := c.acked[seq]; twice {
		t.Fatalf("number %d was given to %s and to %s", seq, other, id)
	}
	c.acked[seq] = id
}

// check reads the log in dir: every acknowledged record is there under its
// number, or was removed in its order and has no execution open, no number is
// there twice, and a beginning stands between its decision and its end.
func (c *checker) check(t *testing.T, dir string) {
	t.Helper()
	links, err := chain(osFileSystem{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	first := uint64(0)
	if len(links) > 0 {
		first = links[0].header.tree.size
	}
	found, ends := map[uint64]string{}, map[uint64]bool{}
	last := int64(-1)
	for rec, err := range Read(dir) {
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if int64(rec.Seq) <= last {
			t.Fatalf("number %d comes after %d", rec.Seq, last)
		}
		last = int64(rec.Seq)
		found[rec.Seq] = rec.Execution
		if rec.Started != nil && (found[rec.Started.DecidedSeq] != rec.Execution || ends[rec.Started.DecidedSeq]) && rec.Started.DecidedSeq >= first {
			t.Fatalf("record %d, a beginning, is not between the decision and the end of %s", rec.Seq, rec.Execution)
		}
		if rec.Ended != nil {
			ends[rec.Ended.DecidedSeq] = true
		}
	}
	for seq, id := range c.acked {
		if seq < first {
			if c.open[seq] && !ends[seq] {
				t.Fatalf("record %d was removed, and its execution is open", seq)
			}
			continue
		}
		if found[seq] != id {
			t.Fatalf("record %d of %s was acknowledged, the log has %q there", seq, id, found[seq])
		}
	}
}

// recovered opens the log on a disk that works, ends what is open, appends, and
// expects both verdicts to be good.
func (c *checker) recovered(t *testing.T, cfg Config) {
	t.Helper()
	cfg.FileSystem = nil
	l, stop := running(t, cfg)
	for _, open := range l.Unended() {
		rec := ended(0, open.DecidedSeq)
		rec.Execution, rec.Ended.Outcome = open.Execution, execution.OutcomeUnknownCrash
		seq, err := l.Append(t.Context(), rec)
		if !c.note(t, rec, seq, err) {
			t.Fatal(err)
		}
	}
	rec := decided(999, execution.EffectDeny)
	if seq := mustAppendSoon(t, l, rec); !c.note(t, rec, seq, nil) {
		t.Fatal("not noted")
	}
	stop()
	c.check(t, cfg.Dir)
	mustVerify(t, cfg, l.Verifier())
}

// work does the workload on a log that may fail at any call, waiting for retention no
// longer than patience, and returns how many segments that removed.
func (c *checker) work(t *testing.T, cfg Config, n int, patience time.Duration) uint64 {
	t.Helper()
	removed, _ := workload(cfg, n, patience, func(rec execution.Record, seq uint64, err error) bool {
		t.Helper()
		return c.note(t, rec, seq, err)
	})
	return removed // where the log was not opened, recovered shows that it can be later
}

// workload appends executions with large records, ends each, and closes the log. note
// is told of each answer, and reports whether the record was acknowledged. It returns
// how many segments retention removed, or why the log was not opened. After each execution it
// waits for retention, no longer than patience.
func workload(cfg Config, n int, patience time.Duration, note func(execution.Record, uint64, error) bool) (removed uint64, err error) {
	l, err := New(cfg)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	pad := strings.Repeat("p", 5<<10)
	for i := range n {
		rec := decided(i, execution.EffectAllow)
		rec.Decided.CodeSHA256 = pad
		seq, err := l.Append(ctx, rec)
		if !note(rec, seq, err) {
			continue
		}
		l.AppendLater(started(i, seq), func(error) {})
		rec = ended(i, seq)
		rec.RequestID = pad
		seq, err = l.Append(ctx, rec)
		note(rec, seq, err)
		// Retention goes on beside, and may fail for good.
		for end := time.Now().Add(patience); l.Held().Bytes > 2*cfg.SegmentBytes && l.Ready(ctx) == nil && time.Now().Before(end); {
			time.Sleep(time.Millisecond / 10)
		}
	}
	removed = l.Held().Removed
	cancel()
	// The error of a final checkpoint that could not be written is right.
	<-done
	return removed, nil
}

// small is a log of four segments.
func small(t testing.TB) Config {
	t.Helper()
	cfg := folders(t)
	cfg.MaxBytes, cfg.DropExported = 4*minSegmentBytes, true
	return cfg
}

// Invariant 9: no acknowledged record is ever lost. Each call that changes the
// disk fails once, and then for good, in each way it can.
func TestEveryCallMayFail(t *testing.T) {
	kinds := []struct {
		name string
		hit  fault1
	}{
		{"EIO", fault1{err: syscall.EIO}},
		{"ENOSPC after half", fault1{err: syscall.ENOSPC, short: true}},
		{"EIO though done", fault1{err: syscall.EIO, late: true}},
		{"EIO and lost", fault1{err: syscall.EIO, lost: true}},
	}
	for _, kind := range kinds {
		for _, lasting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/lasting=%v", kind.name, lasting), func(t *testing.T) {
				t.Parallel()
				step := 1
				if testing.Short() {
					step = 7
				}
				if removed := newChecker().work(t, small(t), 14, patience); removed == 0 {
					t.Fatal("nothing was removed: retention is not tried")
				}
				for at := 1; ; at += step {
					disk := &faulty{plan: func(_ string, n int) fault1 {
						if n == at || lasting && n > at {
							return kind.hit
						}
						return fault1{}
					}}
					cfg := small(t)
					cfg.FileSystem = disk
					c := newChecker()
					c.work(t, cfg, 14, 20*time.Millisecond)
					if disk.set(nil) == 0 {
						break // past the last call
					}
					c.recovered(t, cfg)
					_ = os.RemoveAll(filepath.Dir(cfg.Dir)) // else at the end
					if t.Failed() {
						t.Fatalf("at call %d", at)
					}
				}
			})
		}
	}
}

// A failed write voids its numbers; the log goes on in a new segment, whose
// first record is the gap.
func TestAFailedWriteLeavesAGap(t *testing.T) {
	for _, op := range []string{"write", "writeback", "datasync"} {
		t.Run(op, func(t *testing.T) {
			disk := &faulty{}
			cfg := folders(t)
			cfg.FileSystem = disk
			l, stop := running(t, cfg)
			fill(t, l, 3)
			failOnce(disk, op)
			_, err := l.Append(t.Context(), decided(7, execution.EffectAllow))
			if execution.KindOf(err) != execution.KindUnavailable {
				t.Fatalf("append on a failing disk: %v", err)
			}
			if got := mustAppend(t, l, decided(8, execution.EffectDeny)); got != 8 {
				t.Errorf("the next record is %d, want 8: 6 is void and 7 the gap", got)
			}
			if err := l.Ready(t.Context()); err != nil {
				t.Errorf("not ready after the fault: %v", err)
			}
			stop()
			var gap *execution.Gap
			for rec, err := range Read(cfg.Dir) {
				if err != nil {
					t.Fatal(err)
				}
				if rec.Gap != nil {
					gap = rec.Gap
				}
			}
			if gap == nil || gap.File != segmentName(1) || gap.FirstVoid != 6 || gap.LastVoid != 6 || gap.Offset == 0 {
				t.Errorf("the gap is %+v", gap)
			}
			report := mustVerify(t, cfg, l.Verifier())
			if report.Gaps != 1 || report.Voids != 1 || len(report.Completeness.Notes) != 1 || report.TreeSize != 9 {
				t.Errorf("report is %+v", report)
			}
		})
	}
}

// failOnce lets the next call of op on a segment fail.
func failOnce(disk *faulty, op string) {
	failed := false
	disk.set(func(o string, _ int) fault1 {
		if o != op || failed {
			return fault1{}
		}
		failed = true
		return fault1{err: syscall.EIO}
	})
}

// A log that cannot begin another segment is not ready, refuses, and comes back
// without a record having to be tried.
func TestADeadDiskIsToldAndHeals(t *testing.T) {
	disk := &faulty{}
	cfg := folders(t)
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	fill(t, l, 1)
	disk.set(func(op string, _ int) fault1 {
		if op == "write" || op == "datasync" {
			return fault1{err: syscall.EIO}
		}
		return fault1{}
	})
	if _, err := l.Append(t.Context(), decided(1, execution.EffectDeny)); err == nil {
		t.Fatal("append on a dead disk succeeded")
	}
	if err := l.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable {
		t.Errorf("ready on a dead disk: %v", err)
	}
	disk.set(nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for l.Ready(ctx) != nil {
		if ctx.Err() != nil {
			t.Fatal("the log did not come back")
		}
	}
	fill(t, l, 1)
	stop()
	mustVerify(t, cfg, l.Verifier())
}
