package activation_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/policy/activation"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// watched is a folder that is watched, and what was read of it.
func watched(t *testing.T, folder string) <-chan activation.Candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan activation.Candidate), make(chan error, 1)
	go func() {
		ended <- activation.Watch(ctx, folder, slog.New(slog.DiscardHandler), func(ctx context.Context) bool {
			c, err := activation.ReadFolder(folder)
			if err != nil {
				t.Error(err)
			}
			select {
			case seen <- c:
			case <-ctx.Done():
			}
			return false
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return seen
}

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// until waits for a bundle whose p.rego is text.
func until(t *testing.T, seen <-chan activation.Candidate, text string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case c := <-seen:
			if string(c.Files["p.rego"]) == text {
				return
			}
		case <-late:
			t.Fatalf("%q is not seen", text)
		}
	}
}

func TestFolderIsWatched(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "p.rego"), "one")
	seen := watched(t, folder)
	until(t, seen, "one")
	write(t, filepath.Join(folder, "p.rego"), "two")
	until(t, seen, "two")
	// In the way of an editor, and in a folder that was not there before.
	write(t, filepath.Join(folder, "p.rego~"), "three")
	if err := os.Rename(filepath.Join(folder, "p.rego~"), filepath.Join(folder, "p.rego")); err != nil {
		t.Fatal(err)
	}
	until(t, seen, "three")
	write(t, filepath.Join(folder, "deeper", "data.json"), "{}")
	late := time.After(patience)
	for found := false; !found; {
		select {
		case c := <-seen:
			_, found = c.Files["deeper/data.json"]
		case <-late:
			t.Fatal("the new folder is not seen")
		}
	}
}

// A ConfigMap is changed by a link that is swapped.
func TestMountedConfigMap(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "..2026_01", "p.rego"), "one")
	write(t, filepath.Join(folder, "..2026_02", "p.rego"), "two")
	link(t, "..2026_01", filepath.Join(folder, "..data"))
	link(t, "..data/p.rego", filepath.Join(folder, "p.rego"))
	seen := watched(t, folder)
	until(t, seen, "one")
	link(t, "..2026_02", filepath.Join(folder, "..data_tmp"))
	if err := os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")); err != nil {
		t.Fatal(err)
	}
	until(t, seen, "two")
}

// So is a single file of one.
func TestMountedFile(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "..2026_01", "c.json"), "one")
	write(t, filepath.Join(folder, "..2026_02", "c.json"), "two")
	link(t, "..2026_01", filepath.Join(folder, "..data"))
	link(t, "..data/c.json", filepath.Join(folder, "c.json"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	file := filepath.Join(folder, "c.json")
	var seen []string
	if err := activation.Watch(ctx, file, slog.New(slog.DiscardHandler), func(context.Context) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		switch seen = append(seen, string(text)); seen[len(seen)-1] {
		case "one":
			link(t, "..2026_02", filepath.Join(folder, "..data_tmp"))
			if err := os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")); err != nil {
				t.Error(err)
			}
		case "two":
			write(t, file+"~", "three")
			if err := os.Rename(file+"~", file); err != nil {
				t.Error(err)
			}
		case "three":
			cancel()
		}
		return false
	}); err != nil {
		t.Error(err)
	}
	if want := []string{"one", "two", "three"}; !slices.Equal(slices.Compact(seen), want) {
		t.Errorf("seen %q, want %q", seen, want)
	}
}

func TestFoldersThatLeadOut(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "p.rego"), "secret")
	for name, prepare := range map[string]func(folder string){
		"a file":     func(f string) { link(t, filepath.Join(outside, "p.rego"), filepath.Join(f, "p.rego")) },
		"a folder":   func(f string) { link(t, outside, filepath.Join(f, "sub")) },
		"..data":     func(f string) { link(t, outside, filepath.Join(f, "..data")) },
		"..data, up": func(f string) { link(t, "..", filepath.Join(f, "..data")) },
		"within data": func(f string) {
			write(t, filepath.Join(f, "..1", "q.rego"), "x")
			link(t, "..1", filepath.Join(f, "..data"))
			link(t, filepath.Join(outside, "p.rego"), filepath.Join(f, "..1", "p.rego"))
		},
	} {
		folder := t.TempDir()
		prepare(folder)
		if c, err := activation.ReadFolder(folder); err == nil {
			t.Errorf("%s: read %q", name, c.Files)
		}
	}
	if _, err := activation.ReadFolder(filepath.Join(outside, "missing")); err == nil {
		t.Error("a folder that is not there is read")
	}
	if err := activation.Watch(t.Context(), filepath.Join(outside, "missing"), slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("a folder that is not there is watched")
	}
}

// A folder that is put in the place of the watched one is noticed, and so is what
// changes in it from then on.
func TestFolderThatIsReplaced(t *testing.T) {
	parent := t.TempDir()
	folder := filepath.Join(parent, "policy")
	write := func(folder, code string) {
		t.Helper()
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "p.rego"), saying(code).Files["p.rego"], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(folder, "old")
	seen := watched(t, folder)
	until := func(code string) {
		t.Helper()
		for c := range seen {
			if c.Files.Digest() == saying(code).Files.Digest() {
				return
			}
		}
	}
	until("old")
	write(folder+".next", "new")
	// In one step, as RENAME_EXCHANGE does, or two names would be there for a moment.
	if err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, folder+".next", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	until("new")
	write(folder, "newest")
	until("newest")
}

// A folder's policy comes into force when it changes; what is refused is tried and
// recorded once.
func TestFollower(t *testing.T) {
	folder := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "p.rego"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(string(saying("first").Files["p.rego"]))
	p := newPlace(t)
	first, err := activation.ReadFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	m := p.mustStart(first)
	f := activation.NewFollower(m, folder, first)
	look := func(again bool, says, records string) {
		t.Helper()
		for range 2 { // the second time there is nothing new
			if got := f.Look(t.Context()); got != again || p.says() != says || strings.Join(p.types(), " ") != records {
				t.Errorf("look %v, says %s, records %v", got, p.says(), p.types())
			}
		}
	}
	look(false, "first", "policy_activated")
	write("package execgate\n\ndecision := {")
	look(false, "first", "policy_activated policy_refused")
	write(string(saying("second").Files["p.rego"]))
	look(false, "second", "policy_activated policy_refused policy_activated")
	if err := m.Rollback(t.Context(), somebody); err != nil {
		t.Fatal(err)
	}
	look(false, "first", "policy_activated policy_refused policy_activated policy_activated") // the rollback stays
	link(t, "p.rego", filepath.Join(folder, "q.rego"))
	look(true, "first", "policy_activated policy_refused policy_activated policy_activated policy_refused")
	if s := m.State(); s.Refused == nil || s.Refused.Code != activation.CodeBroken {
		t.Errorf("refused is %+v", s.Refused)
	}
}
