package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A log that is shorter than, or another than, what a witness has seen is not
// opened, and the message names the witness and says how to go on. Also with the
// keys rolled back, which nothing in the state folder can tell.
func TestWitnessKnowsOfARollback(t *testing.T) {
	save := func(t *testing.T, cfg Config, to string) {
		for _, dir := range []string{cfg.Dir, cfg.KeyDir} {
			if err := os.CopyFS(filepath.Join(to, filepath.Base(dir)), os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore := func(t *testing.T, cfg Config, from string, dirs ...string) {
		for _, dir := range dirs {
			if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(from, filepath.Base(dir))))); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(cfg.KeyDir, keyName), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, cfg Config, early string)
		want   string // empty: it is opened
	}{
		{"nothing", func(*testing.T, Config, string) {}, ""},
		{"log and keys rolled back", func(t *testing.T, cfg Config, early string) {
			restore(t, cfg, early, cfg.Dir, cfg.KeyDir)
		}, "keeper has its checkpoint of 10 records"},
		{"rolled back and gone on", func(t *testing.T, cfg Config, early string) {
			restore(t, cfg, early, cfg.Dir, cfg.KeyDir)
			cfg.Witnesses = nil
			filled(t, cfg, 8)
		}, "keeper has: the log was rewritten"},
		{"the log emptied and the checkpoints removed", func(t *testing.T, cfg Config, _ string) {
			if err := errors.Join(os.RemoveAll(cfg.Dir), os.Remove(filepath.Join(cfg.KeyDir, rememberedName))); err != nil {
				t.Fatal(err)
			}
		}, "keeper has its checkpoint of 10 records"},
		{"the log emptied with its keys", func(t *testing.T, cfg Config, _ string) {
			if err := errors.Join(os.RemoveAll(cfg.Dir), os.RemoveAll(cfg.KeyDir)); err != nil {
				t.Fatal(err)
			}
		}, ""}, // a new log: a warning, as the witness may be shared
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, k := folders(t), &keeper{}
			var logged bytes.Buffer
			cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			cfg.Witnesses = []Witness{k}
			filled(t, cfg, 2)
			early := t.TempDir()
			save(t, cfg, early)
			filled(t, cfg, 3)
			c.change(t, cfg, early)
			logged.Reset()
			l, err := New(cfg)
			if err == nil {
				l.Close()
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				if warned := strings.Contains(logged.String(), "knows other logs"); warned != (c.name != "nothing") {
					t.Errorf("logged: %s", &logged)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "restore "+cfg.Dir) {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

// A start that reads only the log's end reads as far back as the newest checkpoint of
// a witness: what forked before it shows, however much came after.
func TestWitnessOfALongLog(t *testing.T) {
	cfg, k := folders(t), &keeper{}
	cfg.StartBytes = -1
	cfg.Witnesses = []Witness{k}
	filled(t, cfg, 2)
	early := t.TempDir()
	if err := os.CopyFS(early, os.DirFS(filepath.Dir(cfg.Dir))); err != nil {
		t.Fatal(err)
	}
	filled(t, cfg, 3)
	if err := errors.Join(os.RemoveAll(cfg.Dir), os.RemoveAll(cfg.KeyDir), os.CopyFS(filepath.Dir(cfg.Dir), os.DirFS(early)), os.Chmod(filepath.Join(cfg.KeyDir, keyName), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg.Witnesses = nil
	l, stop := running(t, cfg)
	for len(segments(t, cfg)) < 4 {
		fill(t, l, 1)
	}
	stop()
	filled(t, cfg, 1)
	cfg.Witnesses = []Witness{k}
	if l, err := New(cfg); err == nil || !strings.Contains(err.Error(), "keeper has: the log was rewritten") {
		if err == nil {
			l.Close()
		}
		t.Errorf("opened: %v", err)
	}
}

// A witness that was dead for longer than records are kept costs no reading of all that
// is kept: nothing there can be compared with what it has.
func TestWitnessOfWhatIsGone(t *testing.T) {
	cfg, k := small(t), &keeper{}
	cfg.StartBytes = -1
	cfg.Witnesses = []Witness{k}
	filled(t, cfg, 1)
	cfg.Witnesses = nil
	l, stop := running(t, cfg)
	grow(t, l, 5)
	within(t, l)
	stop()
	cfg.MaxBytes, cfg.DropExported = 0, false
	l, stop = running(t, cfg)
	grow(t, l, 4)
	stop()
	var logged bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	cfg.Witnesses = []Witness{k}
	// The oldest is damaged inside, where only who reads it sees it.
	first := filepath.Join(cfg.Dir, segmentName(segments(t, cfg)[0]))
	data, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	data[20<<10] ^= 1
	if err := os.WriteFile(first, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if !strings.Contains(logged.String(), "no checkpoint of what is kept") {
		t.Errorf("logged: %s", &logged)
	}
}

// A witness that hangs or answers nonsense does not keep the gateway from starting.
func TestWitnessProvesNothingByNonsense(t *testing.T) {
	for _, kept := range []string{"", "\x00\xff nonsense\n", "execgate/audit/00000000000000000000000000000000\n1\n", strings.Repeat("x", 3*maxCheckpointBytes)} {
		cfg, k := folders(t), &keeper{kept: []byte(kept)}
		cfg.Witnesses = []Witness{k}
		filled(t, cfg, 1)
		origin := originPrefix + fmt.Sprintf("%032x", 0)
		k.kept = append(k.kept, fmt.Sprintf("\n%s\n900\nAAAA\n\n— %s AAAA\n", origin, origin)...)
		filled(t, cfg, 1)
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := askWitness(&hangs{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("a witness that hangs: %v", err)
		}
		time.Sleep(time.Hour) // until it answers, of the bubble's clock
	})
}

// hangs is a witness that ignores its context for a long time, as a file on a
// mount that is gone.
type hangs struct{ keeper }

func (*hangs) Kept(context.Context) ([]byte, error) {
	time.Sleep(time.Hour)
	return nil, nil
}
