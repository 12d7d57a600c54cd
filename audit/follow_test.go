package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

// followed collects what a follower of l sees until it has the record last.
func followed(t testing.TB, l *Log, from, last uint64) (got []execution.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for batch, err := range l.Follow(ctx, from) {
		if err != nil {
			t.Error(err)
			return got
		}
		if got = append(got, batch...); got[len(got)-1].Seq >= last {
			return got
		}
	}
	t.Errorf("followed to no end: %d records from %d, want up to %d", len(got), from, last)
	return got
}

// inOrder holds that records are those with the numbers from first to last, but
// for the void ones.
func inOrder(t testing.TB, records []execution.Record, first, last uint64, void map[uint64]bool) {
	t.Helper()
	next := first
	for _, r := range records {
		for void[next] {
			next++
		}
		if r.Seq != next {
			t.Fatalf("record %d follows where %d should", r.Seq, next)
		}
		next++
	}
	if next != last+1 {
		t.Fatalf("the last is %d, want %d", next-1, last)
	}
}

// Followers that came before, between and after see each record once, while many
// write and segments are full.
func TestFollow(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	const writers, each = 16, 150
	const all = writers * each
	var busy sync.WaitGroup
	for from := uint64(0); from < all; from += all / 5 {
		busy.Go(func() { inOrder(t, followed(t, l, from, all-1), from, all-1, nil) })
	}
	for w := range writers {
		busy.Go(func() {
			for i := range each {
				mustAppend(t, l, decided(w*each+i, execution.EffectDeny))
			}
		})
	}
	busy.Wait()
	inOrder(t, followed(t, l, all-3, all-1), all-3, all-1, nil)
	if segments, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+segmentSuffix)); len(segments) < 3 {
		t.Errorf("%d segments are too few for this test", len(segments))
	}
	stop()
	for _, from := range []uint64{0, 1, all / 2, all - 1} {
		var got []execution.Record
		for batch, err := range ReadFrom(cfg.Dir, from) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, batch...)
		}
		inOrder(t, got, from, all-1, nil)
	}
	for range ReadFrom(cfg.Dir, all) {
		t.Error("there is something after the last record")
	}
}

// What failed and was given up is not followed, though it may be whole on the disk.
func TestFollowPassesWhatIsVoid(t *testing.T) {
	cfg := folders(t)
	disk := &faulty{}
	cfg.FileSystem = disk
	l, _ := running(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan execution.Record, 1000)
	go func() {
		defer close(seen)
		for batch, err := range l.Follow(ctx, 0) {
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range batch {
				seen <- r
			}
		}
	}()
	acked := map[uint64]string{}
	for i := range 30 {
		if i%10 == 5 { // written, and not known to be durable
			failOnce(disk, "datasync") // the log heals by itself, at any time from then on
		}
		rec := decided(i, execution.EffectDeny)
		seq, err := l.Append(t.Context(), rec)
		if err == nil {
			acked[seq] = rec.Execution
		}
	}
	if hits := disk.set(nil); hits != 3 {
		t.Fatalf("%d writes failed, want 3", hits)
	}
	last := mustAppendSoon(t, l, decided(99, execution.EffectDeny))
	acked[last] = decided(99, execution.EffectDeny).Execution
	for r := range seen {
		if r.Type != execution.RecordGap && acked[r.Seq] != r.Execution {
			t.Errorf("record %d of %s was never acknowledged", r.Seq, r.Execution)
		}
		delete(acked, r.Seq)
		if r.Seq == last {
			break
		}
	}
	if len(acked) > 0 {
		t.Errorf("not followed: %v", acked)
	}
	cancel()
	for range seen {
	}
}

// mustAppendSoon appends rec once the log has healed.
func mustAppendSoon(t testing.TB, l *Log, rec execution.Record) (seq uint64) {
	t.Helper()
	eventually(t, "the log takes no record", func() bool {
		var err error
		seq, err = l.Append(t.Context(), rec)
		return err == nil
	})
	return seq
}

// Damage is told with file and offset, and ends it.
func TestFollowTellsOfDamage(t *testing.T) {
	cfg := folders(t)
	l, _ := running(t, cfg)
	for i := range 10 {
		mustAppend(t, l, decided(i, execution.EffectDeny))
	}
	name := filepath.Join(cfg.Dir, segmentName(1))
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("X"), 600); err != nil {
		t.Fatal(err)
	}
	var last error
	for batch, err := range l.Follow(t.Context(), 0) {
		if last != nil {
			t.Errorf("%d records follow the error", len(batch))
		}
		last = err
	}
	if text := fmt.Sprint(last); !strings.Contains(text, name) || !strings.Contains(text, "offset") {
		t.Errorf("%v", last)
	}
}
