package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

// keeper is a witness in memory. fail makes it refuse, hang makes it not answer.
type keeper struct {
	mu         sync.Mutex
	kept       []byte
	count      int
	fail, hang bool
}

func (k *keeper) Name() string { return "keeper" }

func (k *keeper) Keep(ctx context.Context, checkpoint []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count++
	if k.hang {
		k.mu.Unlock()
		<-ctx.Done()
		k.mu.Lock()
		return ctx.Err()
	}
	if k.fail {
		return errors.New("no")
	}
	k.kept = append(append(k.kept, '\n'), checkpoint...)
	return nil
}

func (k *keeper) Kept(context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.kept), nil
}

func (k *keeper) set(fail, hang bool) (asked int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked, k.fail, k.hang = k.count, fail, hang
	k.count = 0
	return asked
}

// witnessed returns the sizes of the checkpoints that a witness has.
func witnessed(t testing.TB, k *keeper, key string) (sizes []uint64) {
	t.Helper()
	ring, err := newKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := k.Kept(t.Context())
	err = readKept(bytes.NewReader(kept), func(c keptCheckpoint) error {
		stated, err := ring.open(c.text)
		sizes = append(sizes, stated.size)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

func last(sizes []uint64) uint64 {
	if len(sizes) == 0 {
		return 0
	}
	return sizes[len(sizes)-1]
}

// A witness gets the newest checkpoint: within a pace while it answers, once it
// answers again, and at the stop. It delays nobody.
func TestWitnessGetsTheNewestCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, k := folders(t), &keeper{}
		cfg.Witnesses = []Witness{k}
		l, stop := running(t, cfg)
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() } // of the bubble's clock
		wait(3 * time.Second)
		for range 5 {
			for range 20 {
				mustAppend(t, l, decided(1, execution.EffectDeny))
			}
			wait(time.Second)
		}
		wait(3 * time.Second)
		if got := last(witnessed(t, k, l.Verifier())); got != 100 {
			t.Errorf("the witness has %d records", got)
		}
		if n := k.set(false, false); n > 12 {
			t.Errorf("the witness was told %d times in some ten seconds", n)
		}
		wait(time.Minute)
		if n := k.set(true, false); n != 0 {
			t.Errorf("an idle log told its witness %d times", n)
		}

		fill(t, l, 1)
		wait(time.Hour)
		if n := k.set(false, false); n < 30 || n > 80 {
			t.Errorf("a witness that refuses was asked %d times in an hour", n)
		}
		state := l.Witnesses()[0]
		if state.Err == nil || state.Failures < 30 || state.Size != 100 {
			t.Errorf("its state is %+v", state)
		}
		wait(2 * maxWitnessPause)
		if state = l.Witnesses()[0]; state.Err != nil || state.Size != 100+2 {
			t.Errorf("its state is %+v", state)
		}

		k.set(false, true)
		begun := time.Now()
		fill(t, l, 1)
		if waited := time.Since(begun); waited > 0 {
			t.Errorf("a witness that hangs delayed records by %v", waited)
		}
		wait(time.Minute)
		if err := l.Ready(t.Context()); err != nil {
			t.Errorf("a witness that hangs makes the log unready: %v", err)
		}
		k.set(false, false)
		fill(t, l, 1)
		stop()
		if got := last(witnessed(t, k, l.Verifier())); got != 100+6 {
			t.Errorf("after the stop the witness has %d records", got)
		}
		mustVerify(t, cfg, l.Verifier())
	})
}

// stuck is a witness that ignores its context.
type stuck struct {
	keeper
	release chan struct{}
}

func (s *stuck) Keep(ctx context.Context, checkpoint []byte) error {
	<-s.release
	return s.keeper.Keep(ctx, checkpoint)
}

// That a witness hangs shows, also where it cannot be called off; it is not asked again
// meanwhile, and the log stops without it.
func TestAWitnessThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, k := folders(t), &stuck{release: make(chan struct{})}
		cfg.Witnesses = []Witness{k}
		l, stop := running(t, cfg)
		fill(t, l, 1)
		time.Sleep(10 * time.Minute) // of the bubble's clock
		synctest.Wait()
		if state := l.Witnesses()[0]; state.Err == nil || state.Failures < 10 || state.Size != 0 {
			t.Errorf("its state is %+v", state)
		}
		close(k.release)
		time.Sleep(2 * maxWitnessPause)
		synctest.Wait()
		if state := l.Witnesses()[0]; state.Err != nil || state.Size != 2 {
			t.Errorf("it answers again, and its state is %+v", state)
		}
		if n := k.set(false, false); n != 2 {
			t.Errorf("it was asked %d times", n)
		}
		k.release = make(chan struct{})
		fill(t, l, 1)
		time.Sleep(time.Minute)
		begun := time.Now()
		stop()
		if waited := time.Since(begun); waited > 2*lastWitnessing {
			t.Errorf("the stop took %v", waited)
		}
		close(k.release) // what hangs ends with the bubble
	})
}

// A log stops although a witness hangs, and the next life makes up for it.
func TestStopDoesNotWaitForAWitnessThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, k := folders(t), &keeper{hang: true}
		cfg.Witnesses = []Witness{k}
		l, stop := running(t, cfg)
		fill(t, l, 2)
		begun := time.Now()
		stop()
		if waited := time.Since(begun); waited > 2*lastWitnessing {
			t.Errorf("the stop took %v", waited)
		}
		k.set(false, false)
		l, stop = running(t, cfg)
		stop()
		if got := last(witnessed(t, k, l.Verifier())); got != 4 {
			t.Errorf("the witness has %d records", got)
		}
	})
}

// Each case alters the log or a witness's file; Verify finds it, and where.
func TestVerifyAgainstAWitness(t *testing.T) {
	blocks := func(t *testing.T, path string, change func([]string) []string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		entries := strings.Split(string(data), "\nexecgate/")
		if err := os.WriteFile(path, []byte(strings.Join(change(entries), "\nexecgate/")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(entry, old, new string) string {
		if !strings.Contains(entry, old) {
			panic("the case changes nothing: " + entry)
		}
		return strings.Replace(entry, old, new, 1)
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, cfg Config, path string)
		want   string // in a finding; empty: it holds
		note   string
	}{
		{"nothing", func(*testing.T, Config, string) {}, "", ""},
		{"the last entry cut short", func(t *testing.T, _ Config, path string) {
			blocks(t, path, func(e []string) []string { e[len(e)-1] = e[len(e)-1][:60]; return e })
		}, "", "not written to its end"},
		{"an entry cut short, and others after it", func(t *testing.T, _ Config, path string) {
			blocks(t, path, func(e []string) []string { e[2] = e[2][:60]; return e })
		}, "", "not written to its end"},
		{"a size altered", func(t *testing.T, _ Config, path string) {
			blocks(t, path, func(e []string) []string { e[2] = cut(e[2], "\n", "\n1"); return e })
		}, "line", ""},
		{"a signature altered", func(t *testing.T, _ Config, path string) {
			blocks(t, path, func(e []string) []string { e[2] = e[2][:len(e[2])-10] + "AAAAAA" + e[2][len(e[2])-4:]; return e })
		}, "line", ""},
		{"two entries exchanged", func(t *testing.T, _ Config, path string) {
			blocks(t, path, func(e []string) []string { e[1], e[len(e)-2] = e[len(e)-2], e[1]; return e })
		}, "follows one of", ""},
		{"emptied", func(t *testing.T, _ Config, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, "no checkpoint of this log", ""},
		{"another log beside it", func(t *testing.T, _ Config, path string) {
			other := folders(t)
			filled(t, other, 9)
			blocks(t, path, func(e []string) []string {
				return append(e, strings.TrimPrefix(string(latest(t, other)), "execgate/"))
			})
		}, "", ""},
		{"the log rolled back", func(t *testing.T, cfg Config, _ string) {
			data, err := os.ReadFile(filepath.Join(cfg.Dir, segmentName(1)))
			if err != nil {
				t.Fatal(err)
			}
			at := bounds(t, data)
			clear(data[at[len(at)-5]:])
			if err := os.WriteFile(filepath.Join(cfg.Dir, segmentName(1)), data, 0o600); err != nil {
				t.Fatal(err)
			}
			// The holder of the key signs what is left.
			id, _ := signerOf(t, cfg)
			report, err := Verify(cfg.Dir, id.public)
			if err != nil {
				t.Fatal(err)
			}
			sign(t, cfg, id, report)
			if report, err = Verify(cfg.Dir, id.public); err != nil || !report.Integrity.OK {
				t.Fatalf("without a witness it should not show: %+v %v", report, err)
			}
		}, "covers 12 records, only 10", ""},
		{"the log rewritten by the holder of the key", func(t *testing.T, cfg Config, _ string) {
			path := filepath.Join(cfg.Dir, segmentName(1))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := bounds(t, data)
			data[at[2]+frameHeaderBytes+recordHeaderBytes+100] ^= 1
			reseal(data, at[2])
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			id, _ := signerOf(t, cfg)
			report, err := Verify(cfg.Dir, id.public)
			if err != nil {
				t.Fatal(err)
			}
			sign(t, cfg, id, report)
			if report, err = Verify(cfg.Dir, id.public); err != nil || !report.Integrity.OK {
				t.Fatalf("without a witness it should not show: %+v %v", report, err)
			}
		}, "have the root", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, k := folders(t), &keeper{}
			cfg.Witnesses = []Witness{k}
			var key string
			for range 6 {
				key = filled(t, cfg, 1)
			}
			cfg.Witnesses = nil
			path := filepath.Join(t.TempDir(), "witness")
			if err := os.WriteFile(path, k.kept, 0o600); err != nil {
				t.Fatal(err)
			}
			c.change(t, cfg, path)
			report, err := Verify(cfg.Dir, key, path)
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint(report.Integrity.Findings)
			if report.Integrity.OK != (c.want == "") || !strings.Contains(text, c.want) || c.want != "" && !strings.Contains(text, path) {
				t.Errorf("integrity: %+v", report.Integrity)
			}
			if !strings.Contains(fmt.Sprint(report.Integrity.Notes), c.note) {
				t.Errorf("notes: %v", report.Integrity.Notes)
			}
			if c.want == "" && c.note == "" && report.Witnessed != report.TreeSize {
				t.Errorf("witnessed: %+v", report)
			}
		})
	}
}

// sign puts a checkpoint of what a report followed in the place of the latest.
func sign(t *testing.T, cfg Config, id logIdentity, report Report) {
	t.Helper()
	stated, err := parseCheckpoint(fmt.Sprintf("%s\n%d\n%s\n", id.origin(), report.TreeSize, report.Root), id.origin())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signCheckpoint(id, stated.size, stated.root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, checkpointName), signed, 0o600); err != nil {
		t.Fatal(err)
	}
}
