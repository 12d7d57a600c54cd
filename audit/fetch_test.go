package audit

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

// numbersOf are those of records.
func numbersOf(records []execution.Record) (seqs []uint64) {
	for _, r := range records {
		seqs = append(seqs, r.Seq)
	}
	return seqs
}

// Whatever is asked for, in any order, comes from wherever in the log it is; what is
// not there does not.
func TestFetch(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	const all = 3000
	var writers sync.WaitGroup
	for w := range 10 { // batches of one record, and of many
		writers.Go(func() {
			for i := range all / 10 {
				mustAppend(t, l, decided(w*all/10+i, execution.EffectDeny))
			}
		})
	}
	writers.Wait()
	if links, err := chain(osFileSystem{}, cfg.Dir); err != nil || len(links) < 3 {
		t.Fatalf("%d segments are too few for this test (%v)", len(links), err)
	}
	f := NewFetcher(cfg.Dir)
	fetch := func(seqs ...uint64) []uint64 {
		t.Helper()
		records, done, err := f.Fetch(t.Context(), seqs, 1<<30)
		if err != nil || done != len(seqs) {
			t.Fatalf("%d of %d: %v", done, len(seqs), err)
		}
		return numbersOf(records)
	}
	check := func() {
		t.Helper()
		r := rand.New(rand.NewPCG(3, 5))
		for range 60 {
			seqs := make([]uint64, 1+r.IntN(120))
			for i := range seqs {
				seqs[i] = r.Uint64N(all)
			}
			if got := fetch(seqs...); !slices.Equal(got, seqs) {
				t.Fatalf("asked for %v, and got %v", seqs, got)
			}
		}
		for seq := range uint64(all) {
			if got := fetch(seq); len(got) != 1 || got[0] != seq {
				t.Fatalf("asked for %d, and got %v", seq, got)
			}
		}
	}
	check()
	if got := fetch(all, 1, all+1000, 1<<63, 0); !slices.Equal(got, []uint64{1, 0}) {
		t.Errorf("got %v", got)
	}
	if got := fetch(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	stop()
	check()

	// The oldest segment is given up.
	if err := os.Remove(filepath.Join(cfg.Dir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	links, err := chain(osFileSystem{}, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	oldest := links[0].header.tree.size
	if got := fetch(oldest-1, oldest, all-1, 0); !slices.Equal(got, []uint64{oldest, all - 1}) {
		t.Errorf("got %v", got)
	}
}

// Damage in what is asked for is told, with its place; elsewhere it is not looked for.
func TestFetchOfDamage(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	for i := range 1500 {
		mustAppend(t, l, decided(i, execution.EffectDeny))
	}
	stop()
	path := filepath.Join(cfg.Dir, segmentName(1))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	place := strings.Index(string(text), `{"seq":20,`)
	text[place+30] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewFetcher(cfg.Dir).Fetch(t.Context(), []uint64{20}, 1<<30); err == nil || !strings.Contains(err.Error(), segmentName(1)+": offset ") {
		t.Errorf("error %v", err)
	}
	if records, _, err := NewFetcher(cfg.Dir).Fetch(t.Context(), []uint64{1499, 3}, 1<<30); err != nil || !slices.Equal(numbersOf(records), []uint64{1499, 3}) {
		t.Errorf("got %v (%v)", numbersOf(records), err)
	}
}

// Records that are not much of a size mislead the guess where one is, and are found all
// the same.
func TestFetchAmongRecordsOfAllSizes(t *testing.T) {
	cfg := folders(t)
	cfg.SegmentBytes = 16 << 20
	l, stop := running(t, cfg)
	seqs := []uint64{}
	for i, sizes := range [][2]int{{12, 200 << 10}, {1500, 0}, {30, 100 << 10}, {1, 900 << 10}, {700, 600}, {30, 200 << 10}, {300, 0}} {
		for range sizes[0] {
			r := decided(i, execution.EffectDeny)
			r.Decided.Metadata = map[string]string{"purpose": strings.Repeat("x", sizes[1])}
			mustAppend(t, l, r)
			seqs = append(seqs, uint64(len(seqs)))
		}
	}
	check := func() {
		t.Helper()
		for seq := 0; seq < len(seqs); seq += 7 {
			if got, _, err := NewFetcher(cfg.Dir).Fetch(t.Context(), seqs[seq:seq+1], 1<<30); err != nil || !slices.Equal(numbersOf(got), seqs[seq:seq+1]) {
				t.Fatalf("asked for %d, and got %v (%v)", seq, numbersOf(got), err)
			}
		}
		if got, _, err := NewFetcher(cfg.Dir).Fetch(t.Context(), seqs, 1<<30); err != nil || !slices.Equal(numbersOf(got), seqs) {
			t.Fatalf("asked for all, and got %v (%v)", numbersOf(got), err)
		}
	}
	check()
	stop()
	check()

	// What is fetched at once is bounded, whatever the records are.
	large := seqs[:12+1500]
	slices.Reverse(large)
	large = append(large[1500:], large[:1500]...) // the twelve first
	for most, want := range map[int]int{1: 32, 200 << 10: 32, 12*200<<10 + 20_000: 64, 1 << 30: 1512} {
		if got, done, err := NewFetcher(cfg.Dir).Fetch(t.Context(), large, most); err != nil || done != want || !slices.Equal(numbersOf(got), large[:done]) {
			t.Errorf("of %d bytes %d of %d were looked for, and %d got (%v)", most, done, want, len(got), err)
		}
	}
}

// A fetcher that lives through rotations and removals finds what there is, as one that
// looks for the first time does; and where it knows the place it looks at no folder.
func TestFetcherFollowsTheLog(t *testing.T) {
	cfg := folders(t)
	cfg.MaxBytes, cfg.DropExported = 6*cfg.SegmentBytes, true
	l, stop := running(t, cfg)
	f := NewFetcher(cfg.Dir)
	r := rand.New(rand.NewPCG(3, 5))
	n := uint64(0)
	for l.Held().Removed < 4 {
		for range 100 {
			n = mustAppendSoon(t, l, decided(int(n), execution.EffectDeny)) + 1
		}
		for range 20 {
			seqs := []uint64{n - 1, r.Uint64N(n + 5), r.Uint64N(n), r.Uint64N(n)}
			oldest := l.Held().Oldest // what is asked for may go meanwhile, and what comes later is asked for no more
			got, done, err := f.Fetch(t.Context(), seqs, 1<<30)
			if err != nil || done != len(seqs) {
				t.Fatalf("%d of %d: %v", done, len(seqs), err)
			}
			later := l.Held().Oldest
			has := numbersOf(got)
			for _, seq := range seqs {
				if there := slices.Contains(has, seq); seq >= later && seq < n && !there || there && seq < oldest {
					t.Fatalf("%d is found: %v; kept is from %d, later %d, to %d", seq, there, oldest, later, n)
				}
			}
		}
	}
	stop()
	fresh := NewFetcher(cfg.Dir)
	for seq := l.Held().Oldest; seq < n; seq += 17 {
		a, _, errA := f.Fetch(t.Context(), []uint64{seq}, 1)
		b, _, errB := fresh.Fetch(t.Context(), []uint64{seq}, 1)
		if errA != nil || errB != nil || !slices.Equal(numbersOf(a), []uint64{seq}) || !slices.Equal(numbersOf(b), []uint64{seq}) {
			t.Fatalf("%d: %v (%v), and %v (%v)", seq, numbersOf(a), errA, numbersOf(b), errB)
		}
	}
	// Only the file with the record is there, and the last: its place is known.
	oldest := l.Held().Oldest
	known, err := f.places(oldest)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range known.extents[1:] {
		if err := os.Remove(filepath.Join(cfg.Dir, segmentName(e.index))); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := f.Fetch(t.Context(), []uint64{oldest}, 1); err != nil || !slices.Equal(numbersOf(got), []uint64{oldest}) {
		t.Errorf("got %v (%v)", numbersOf(got), err)
	}
}

// BenchmarkFetchOne reads one record of a log of many segments, which are small: of an
// old one, and of the newest, by a fetcher that knows the log, and by a new one.
func BenchmarkFetchOne(b *testing.B) {
	const segments = 1500
	cfg := folders(b)
	cfg.SegmentBytes = minSegmentBytes
	l, stop := running(b, cfg)
	big := decided(1, execution.EffectDeny)
	big.Decided.Metadata = map[string]string{"purpose": strings.Repeat("x", 7<<10)}
	n := uint64(0)
	for l.Held().Segments < segments {
		n = mustAppend(b, l, big) + 1
	}
	stop()
	known := NewFetcher(cfg.Dir)
	for _, bench := range []struct {
		name string
		seq  uint64
		of   func() *Fetcher
	}{
		{"old", n / 3, func() *Fetcher { return known }}, {"newest", n - 1, func() *Fetcher { return known }},
		{"unknown", n / 3, func() *Fetcher { return NewFetcher(cfg.Dir) }},
	} {
		b.Run("record="+bench.name, func(b *testing.B) {
			for b.Loop() {
				if got, _, err := bench.of().Fetch(b.Context(), []uint64{bench.seq}, 1); err != nil || len(got) != 1 {
					b.Fatalf("%d records (%v)", len(got), err)
				}
			}
		})
	}
}

// BenchmarkFetch reads a page of 100 records that are all over a log of segments of
// the usual size.
func BenchmarkFetch(b *testing.B) {
	cfg := folders(b)
	cfg.SegmentBytes = defaultSegmentBytes
	l, stop := running(b, cfg)
	const all = 200_000
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			for i := range all / 64 {
				mustAppend(b, l, decided(i, execution.EffectDeny))
			}
		})
	}
	writers.Wait()
	stop()
	r, f := rand.New(rand.NewPCG(3, 5)), NewFetcher(cfg.Dir)
	for b.Loop() {
		seqs := make([]uint64, 100)
		for i := range seqs {
			seqs[i] = r.Uint64N(all / 64 * 64)
		}
		records, _, err := f.Fetch(b.Context(), seqs, 1<<30)
		if err != nil || len(records) != len(seqs) {
			b.Fatalf("%d records (%v)", len(records), err)
		}
	}
}
