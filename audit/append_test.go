package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

// hanging is a disk whose fdatasync does not return until it is let go. It
// tells on entered that it hangs.
type hanging struct {
	osFileSystem
	mu               sync.Mutex
	on               bool
	entered, release chan struct{}
}

func (h *hanging) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := h.osFileSystem.OpenFile(name, flag, perm)
	return hangingFile{f, h}, err
}

type hangingFile struct {
	File
	disk *hanging
}

func (f hangingFile) Datasync() error {
	f.disk.mu.Lock()
	on := f.disk.on
	f.disk.on = false
	f.disk.mu.Unlock()
	if on {
		f.disk.entered <- struct{}{}
		<-f.disk.release
	}
	return f.File.Datasync()
}

func (h *hanging) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = true
}

// A caller waits for a disk that hangs no longer than its context or the
// budget. What it had decided is durable in the end, and then the log itself
// writes the end, because nothing was run.
func TestADiskThatHangs(t *testing.T) {
	for _, by := range []string{"budget", "context"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := &hanging{entered: make(chan struct{}), release: make(chan struct{})}
				cfg := folders(t)
				cfg.FileSystem, cfg.Budget = disk, 0
				l, stop := running(t, cfg)
				disk.hang()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				begin := time.Now()
				answer := make(chan error, 1)
				go func() {
					_, err := l.Append(ctx, decided(1, execution.EffectAllow))
					answer <- err
				}()
				<-disk.entered
				if by == "context" {
					cancel()
				}
				err := <-answer
				e, ok := errors.AsType[*execution.Error](err)
				if !ok || e.Code != "audit_unavailable" {
					t.Fatalf("append: %v", err)
				}
				if by == "context" && !errors.Is(err, context.Canceled) {
					t.Errorf("append: %v", err)
				}
				if waited := time.Since(begin); by == "budget" && waited != defaultBudget {
					t.Errorf("the caller waited %v", waited)
				}
				time.Sleep(defaultBudget + time.Second) // of the bubble's clock
				if err := l.Ready(t.Context()); err == nil {
					t.Error("ready although the disk hangs")
				}
				disk.release <- struct{}{}
				fill(t, l, 1)
				stop()
				report := mustVerify(t, cfg, l.Verifier())
				if report.Decided != 2 || report.Ended != 2 {
					t.Errorf("report is %+v", report)
				}
			})
		})
	}
}

// A record whose caller gave up before it was taken leaves no trace.
func TestACallerThatGaveUpLeavesNoTrace(t *testing.T) {
	cfg := folders(t)
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if _, err := l.Append(ctx, decided(1, execution.EffectAllow)); execution.KindOf(err) != execution.KindUnavailable {
			t.Fatalf("append: %v", err)
		}
	}
	run, stop := context.WithCancel(t.Context())
	stop()
	if err := l.Run(run); err != nil {
		t.Fatal(err)
	}
	if report := mustVerify(t, cfg, l.Verifier()); report.Records != 0 {
		t.Errorf("the log holds %d records", report.Records)
	}
	if _, err := l.Append(t.Context(), decided(1, execution.EffectAllow)); execution.KindOf(err) != execution.KindUnavailable {
		t.Errorf("append after the stop: %v", err)
	}
	if err := l.Ready(t.Context()); err == nil {
		t.Error("ready after the stop")
	}
}

// 1,000 writers at once: each gets a number of its own, in an order that the
// log keeps, and a stop in the middle answers everybody.
func TestManyWriters(t *testing.T) {
	cfg := folders(t)
	cfg.SegmentBytes = 1 << 20
	l, stop := running(t, cfg)
	c := newChecker()
	var mu sync.Mutex
	var all sync.WaitGroup
	half := make(chan struct{})
	for n := range 1000 {
		all.Go(func() {
			for range 5 {
				rec := decided(n, execution.EffectDeny)
				seq, err := l.Append(t.Context(), rec)
				mu.Lock()
				if c.note(t, rec, seq, err) && len(c.acked) == 2500 {
					close(half)
				}
				mu.Unlock()
			}
		})
	}
	<-half
	stop()
	all.Wait()
	c.check(t, cfg.Dir)
	if report := mustVerify(t, cfg, l.Verifier()); report.Records < uint64(len(c.acked)) {
		t.Errorf("%d records, %d were acknowledged", report.Records, len(c.acked))
	}
}

// A log file that is removed, moved or replaced while in use is noticed before
// anything more is acknowledged.
func TestAFileThatIsGone(t *testing.T) {
	for name, change := range goneFiles {
		t.Run(name, func(t *testing.T) {
			cfg := folders(t)
			l, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx) }()
			fill(t, l, 1)
			if err := change(cfg.Dir, filepath.Join(cfg.Dir, segmentName(1))); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := l.Append(t.Context(), decided(1, execution.EffectAllow))
				if e, ok := errors.AsType[*execution.Error](err); !ok || !strings.Contains(e.Detail, "removed or replaced") {
					t.Errorf("append: %v", err)
				}
			}
			if err := l.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable {
				t.Errorf("ready: %v", err)
			}
			cancel()
			if err := <-done; err == nil {
				t.Error("run ended without an error")
			}
		})
	}
}

// A file that goes while the disk hangs is noticed too: what was written to it is
// not acknowledged.
func TestAFileThatGoesWhileTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &hanging{entered: make(chan struct{}), release: make(chan struct{})}
		cfg := folders(t)
		cfg.FileSystem = disk
		l, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		fill(t, l, 1)
		disk.hang()
		answer := make(chan error, 1)
		go func() {
			_, err := l.Append(ctx, decided(1, execution.EffectAllow))
			answer <- err
		}()
		<-disk.entered
		if err := os.Remove(filepath.Join(cfg.Dir, segmentName(1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookAgain) // of the bubble's clock
		disk.release <- struct{}{}
		if err := <-answer; !errors.Is(err, errFileGone) {
			t.Errorf("append: %v", err)
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("run ended without an error")
		}
	})
}

// goneFiles are the ways in which a file of the log goes.
var goneFiles = map[string]func(dir, path string) error{
	"removed": func(_, path string) error { return os.Remove(path) },
	"moved":   func(_, path string) error { return os.Rename(path, path+".old") },
	"replaced by a copy": func(_, path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	},
	"replaced by a link": func(_, path string) error {
		if err := os.Rename(path, path+".old"); err != nil {
			return err
		}
		return os.Symlink(path+".old", path)
	},
	"cut":          func(_, path string) error { return os.Truncate(path, 500) },
	"emptied":      func(_, path string) error { return os.Truncate(path, 0) },
	"folder moved": func(dir, _ string) error { return os.Rename(dir, dir+".old") },
	"folder replaced by a copy": func(dir, _ string) error {
		if err := os.Rename(dir, dir+".old"); err != nil {
			return err
		}
		return os.CopyFS(dir, os.DirFS(dir+".old"))
	},
	"folder removed": func(dir, _ string) error {
		for {
			// The log may make its spare meanwhile.
			if err := os.RemoveAll(dir); !errors.Is(err, syscall.ENOTEMPTY) {
				return err
			}
		}
	},
}

// Whatever goes is noticed within a second, also of a segment that is sealed, and of
// the one that is written while nothing is.
func TestAFileThatIsGoneWhileNothingIsWritten(t *testing.T) {
	for name, change := range goneFiles {
		for _, sealed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/sealed=%v", name, sealed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := small(t)
					l, err := New(cfg)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan error, 1)
					go func() { done <- l.Run(ctx) }()
					grow(t, l, 1)
					time.Sleep(2 * time.Second) // of the bubble's clock
					synctest.Wait()
					if err := l.Ready(t.Context()); err != nil {
						t.Errorf("ready: %v", err)
					}
					segment := segmentName(2)
					if sealed {
						segment = segmentName(1)
					}
					if err := change(cfg.Dir, filepath.Join(cfg.Dir, segment)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Second)
					synctest.Wait()
					if err := l.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable || !errors.Is(err, errFileGone) {
						t.Errorf("ready: %v", err)
					}
					cancel()
					if err := <-done; err == nil {
						t.Error("run ended without an error")
					}
				})
			})
		}
	}
}

// A disk that was made read-only takes nothing more, and says so; once it can be
// written again the log goes on.
func TestADiskThatIsMadeReadOnly(t *testing.T) {
	disk := &faulty{}
	cfg := small(t)
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	fill(t, l, 1)
	disk.set(func(op string, _ int) fault1 {
		if op == "open" {
			return fault1{}
		}
		return fault1{err: syscall.EROFS}
	})
	for range 2 {
		if _, err := l.Append(t.Context(), decided(1, execution.EffectAllow)); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("append: %v", err)
		}
		if err := l.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("ready: %v", err)
		}
	}
	disk.set(nil)
	mustAppendSoon(t, l, decided(2, execution.EffectDeny))
	stop()
	mustVerify(t, cfg, l.Verifier())
}

// The log is in the order of its numbers, whatever the clock does.
func TestAClockThatStepsBack(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	times := []time.Time{time.Unix(2_000_000_000, 0).UTC(), time.Unix(1_000_000_000, 0).UTC(), time.Unix(1, 0).UTC()}
	for n, at := range times {
		rec := decided(n, execution.EffectDeny)
		rec.Time = at
		mustAppend(t, l, rec)
	}
	stop()
	mustVerify(t, cfg, l.Verifier())
	n := 0
	for rec, err := range Read(cfg.Dir) {
		if err != nil || !rec.Time.Equal(times[n]) {
			t.Errorf("record %d has the time %v, want %v (%v)", n, rec.Time, times[n], err)
		}
		n++
	}
}

// What was open is found again with what its end needs; a decision that does
// not allow opens nothing.
func TestUnended(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	first := mustAppend(t, l, decided(1, execution.EffectAllow))
	mustAppend(t, l, decided(2, execution.EffectDeny))
	mustAppend(t, l, ended(3, mustAppend(t, l, decided(3, execution.EffectAllow))))
	second := mustAppend(t, l, decided(4, execution.EffectAllow))
	stop()
	report, err := Verify(cfg.Dir, l.Verifier())
	if err != nil || !report.Integrity.OK || len(report.Completeness.Findings) != 2 {
		t.Errorf("verify: %+v %v", report, err)
	}
	l, stop = running(t, cfg)
	open := l.Unended()
	if len(open) != 2 || open[0].DecidedSeq != first || open[1].DecidedSeq != second ||
		open[0].Execution != decided(1, "").Execution || open[0].Principal == nil || open[0].Principal.Tenant != "acme" {
		t.Fatalf("open are %+v", open)
	}
	for _, o := range open {
		mustAppend(t, l, ended(1, o.DecidedSeq))
	}
	stop()
	mustVerify(t, cfg, l.Verifier())
}

// Checkpoints come within a second of what is new, are signed by the log's key,
// and cover everything once the log is stopped.
// A session that was allowed is not an execution without an end: it has records
// of its own.
func TestSessionsAreNotUnended(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	opening := decided(1, execution.EffectAllow)
	opening.Execution = ""
	opening.Decided.Action, opening.Decided.Session = execution.ActionSession, "se_1"
	mustAppend(t, l, opening)
	mustAppend(t, l, execution.Record{Type: execution.RecordSession, Session: &execution.SessionChange{ID: "se_1", What: execution.SessionOpened}})
	if _, err := l.Append(t.Context(), execution.Record{Type: execution.RecordSession}); err == nil {
		t.Error("a session record without a body was taken")
	}
	stop()
	l, _ = running(t, cfg)
	if open := l.Unended(); len(open) != 0 {
		t.Errorf("unended: %+v", open)
	}
}

func TestCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := folders(t)
		l, stop := running(t, cfg)
		ring, err := newKeyring(l.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		covered := func() uint64 {
			t.Helper()
			data, err := os.ReadFile(filepath.Join(cfg.Dir, checkpointName))
			if err != nil {
				t.Fatal(err)
			}
			stated, err := ring.open(data)
			if err != nil {
				t.Fatal(err)
			}
			return stated.size
		}
		if got := covered(); got != 0 {
			t.Errorf("a new log's checkpoint covers %d records", got)
		}
		fill(t, l, 2)
		time.Sleep(checkpointInterval) // of the bubble's clock
		synctest.Wait()
		if got := covered(); got != 4 {
			t.Errorf("after a second the checkpoint covers %d records, want 4", got)
		}
		fill(t, l, 1)
		stop()
		if got := covered(); got != 6 {
			t.Errorf("after the stop the checkpoint covers %d records, want 6", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, cfg := range map[string]Config{
		"no folder":           {KeyDir: dir},
		"no folder of keys":   {Dir: dir},
		"the keys in the log": {Dir: dir, KeyDir: filepath.Join(dir, "keys")},
		"one folder for both": {Dir: dir, KeyDir: dir},
		"a tiny segment":      {Dir: dir, KeyDir: dir + "-keys", SegmentBytes: 100},
		"a negative budget":   {Dir: dir, KeyDir: dir + "-keys", Budget: -1},
	} {
		if l, err := New(cfg); err == nil {
			l.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	cfg := folders(t)
	l, stop := running(t, cfg)
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("a second log in the same folder: %v", err)
	}
	fill(t, l, 1)
	stop()
	key := filepath.Join(cfg.KeyDir, keyName)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a key that others can read: %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "restore the key") {
		t.Errorf("a log without its key: %v", err)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made for an old log")
	}
}
