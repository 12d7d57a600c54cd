package audit

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A first segment that is missing and of which no record says that retention
// removed it was deleted by somebody.
func TestADeletedBeginningIsNotRetention(t *testing.T) {
	cfg := small(t)
	cfg.StartBytes = -1
	l, stop := running(t, cfg)
	grow(t, l, 4)
	within(t, l)
	cfg.DropExported, cfg.MaxBytes = false, 0
	stop()
	l, stop = running(t, cfg)
	grow(t, l, 3)
	stop()
	mustVerify(t, cfg, l.Verifier())
	if err := os.Remove(filepath.Join(cfg.Dir, segmentName(segments(t, cfg)[0]))); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(cfg.Dir, l.Verifier())
	if err != nil || report.Completeness.OK || !report.Integrity.OK || !strings.Contains(report.Completeness.Findings[0].Problem, "no record says") {
		t.Errorf("verify: %+v %v", report, err)
	}
	if l, err := New(cfg); err == nil || !strings.Contains(err.Error(), "was not removed by retention") {
		t.Errorf("the log was opened: %v", err)
		l.Close()
	}
}

// What a segment's header says of the log before it is held against the log.
func TestAForgedHeaderShows(t *testing.T) {
	for name, change := range map[string]func(h *segmentHeader){
		"an open decision withheld": func(h *segmentHeader) { h.open = h.open[1:] },
		"an open decision moved":    func(h *segmentHeader) { h.open[0].offset++ },
		"a removal made up":         func(h *segmentHeader) { h.kept = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := small(t)
			cfg.MaxBytes, cfg.DropExported = 0, false
			l, stop := running(t, cfg)
			open := mustAppend(t, l, decided(1, execution.EffectAllow))
			grow(t, l, 2)
			mustAppend(t, l, ended(1, open))
			stop()
			mustVerify(t, cfg, l.Verifier())
			forge(t, cfg, 2, change)
			report, err := Verify(cfg.Dir, l.Verifier())
			if err != nil || report.Integrity.OK {
				t.Errorf("verify: %+v %v", report, err)
			}
		})
	}
}

// forge changes the header of segment index.
func forge(t *testing.T, cfg Config, index uint64, change func(h *segmentHeader)) {
	t.Helper()
	h, n, err := readSegmentHeader(osFileSystem{}, cfg.Dir, index)
	if err != nil {
		t.Fatal(err)
	}
	change(&h)
	path := filepath.Join(cfg.Dir, segmentName(index))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(encodeSegmentHeader(h), data[n:]...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Readers see that a header passes over the last records of the segment before it.
func TestReadSeesWhatAHeaderPassesOver(t *testing.T) {
	cfg := folders(t)
	cfg.StartBytes = -1
	l, stop := running(t, cfg)
	grow(t, l, 3)
	stop()
	end := int64(0)
	links, err := chain(osFileSystem{}, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := readLink(cfg.Dir, links[1], false, func(b *batch) error { end = b.offset; return nil }); err != nil {
		t.Fatal(err)
	}
	forge(t, cfg, 3, func(h *segmentHeader) { h.prevEnd = end })
	for _, from := range []uint64{0, links[1].header.tree.size} {
		var last error
		for _, last = range ReadFrom(cfg.Dir, from) {
		}
		if last == nil || !strings.Contains(last.Error(), segmentName(3)) || !strings.Contains(last.Error(), "before it") {
			t.Errorf("read from %d: %v", from, last)
		}
	}
	l, stop = running(t, cfg)
	defer stop()
	var last error
	for _, last = range l.Follow(t.Context(), 0) {
	}
	if last == nil || !strings.Contains(last.Error(), segmentName(3)) || !strings.Contains(last.Error(), "came before it") {
		t.Errorf("followed: %v", last)
	}
}

// Whoever writes into headers that retention had recorded a removal does not have the
// gateway remove what no record names.
func TestAForgedRemovalIsRecorded(t *testing.T) {
	cfg := small(t)
	cfg.MaxBytes, cfg.DropExported, cfg.StartBytes = 0, false, -1
	l, stop := running(t, cfg)
	grow(t, l, 6)
	stop()
	all := segments(t, cfg)
	forge(t, cfg, all[len(all)-1], func(h *segmentHeader) { h.kept = h.tree.size })
	if report, err := Verify(cfg.Dir, l.Verifier()); err != nil || report.Integrity.OK {
		t.Errorf("verify: %+v %v", report, err)
	}
	cfg.MaxBytes, cfg.DropExported = 4*minSegmentBytes, true
	l, stop = running(t, cfg)
	within(t, l)
	stop()
	if found := removals(t, cfg.Dir); len(found) == 0 || found[0].First != 0 {
		t.Errorf("removed: %+v", found)
	}
}

// The start reads no more than what follows the last checkpoints, knows what is
// open all the same, and still sees from the outside what is missing or cut.
func TestStartReadsTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(path string) error
		opens  bool
	}{
		"intact": {func(string) error { return nil }, true},
		"a flipped bit": {func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), 20<<10)
			return err
		}, true},
		"cut":     {func(path string) error { return os.Truncate(path, 1000) }, false},
		"missing": {os.Remove, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := small(t)
			cfg.MaxBytes, cfg.DropExported, cfg.StartBytes = 0, false, -1
			disk := &faulty{}
			l, stop := running(t, cfg)
			open := mustAppend(t, l, decided(7, execution.EffectAllow))
			grow(t, l, 10)
			stop()
			if err := c.damage(filepath.Join(cfg.Dir, segmentName(5))); err != nil {
				t.Fatal(err)
			}
			if report, err := Verify(cfg.Dir, l.Verifier()); err != nil || name != "intact" && report.Integrity.OK && len(report.Completeness.Findings) == 1 {
				t.Errorf("verify: %+v %v", report, err)
			}
			cfg.FileSystem = disk
			l, err := New(cfg)
			if (err == nil) != c.opens {
				t.Fatalf("opened: %v", err)
			}
			if err != nil {
				return
			}
			defer l.Close()
			if got := l.Unended(); len(got) != 1 || got[0].DecidedSeq != open || got[0].Execution != decided(7, "").Execution {
				t.Errorf("open: %+v", got)
			}
		})
	}
}

// Records that somebody adds to a log at rest, which no signature covers, are told of
// when the log is opened: a stop leaves none.
func TestRecordsAddedAtRestAreToldOf(t *testing.T) {
	for _, added := range []bool{false, true} {
		cfg := folders(t)
		l, stop := running(t, cfg)
		fill(t, l, 2)
		stop()
		if added {
			e, err := newEntry(decided(9, execution.EffectDeny))
			if err != nil {
				t.Fatal(err)
			}
			batch := e.appendFrame(make([]byte, batchHeaderBytes), 4)
			putBatchHeader(batch, batchHeader{first: 4, count: 1, bytes: uint32(len(batch) - batchHeaderBytes), durable: 4})
			f, err := os.OpenFile(filepath.Join(cfg.Dir, segmentName(1)), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(batch, l.writer.off); err != nil {
				t.Fatal(err)
			}
		}
		var logged bytes.Buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		l, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if durable, _ := l.Progress(); (durable == 5) != added {
			t.Errorf("the log has %d records", durable)
		}
		l.Close()
		if got := strings.Contains(logged.String(), "no checkpoint covers"); got != added {
			t.Errorf("added %v, logged: %s", added, &logged)
		}
	}
}
