package export

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/execgate/execgate/execution"
)

func linesOf(t testing.TB, paths ...string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, path := range paths {
		text := mustRead(t, path)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			t.Errorf("%s ends within a line", path)
		}
		for line := range bytes.Lines(text) {
			all = append(all, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	return all
}

// However the file is rotated, its parts together have everything, in order.
func TestFileIsRotated(t *testing.T) {
	for name, rotate := range map[string]func(path, to string) error{
		"moved": os.Rename,
		"moved, and made anew": func(path, to string) error {
			return errors.Join(os.Rename(path, to), os.WriteFile(path, nil, 0o640))
		},
		"copied and truncated": func(path, to string) error {
			text, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(to, text, 0o600), os.Truncate(path, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "audit.jsonl")
			log := newLog(100)
			r := start(t, log, t.TempDir(), []Sink{{Name: "file", Type: TypeJSONL, Path: path}})
			var parts []string
			for i := range uint64(5) {
				r.waitAcknowledged(100 * (i + 1)) // copying and truncating loses what is written between: not this
				parts = append(parts, fmt.Sprint(path, ".", i))
				if err := rotate(path, parts[i]); err != nil {
					t.Fatal(err)
				}
				log.grow(100)
			}
			r.waitAcknowledged(600)
			var a arrivals
			a.add(t, linesOf(t, append(parts, path)...)...)
			if again := a.check(t, 0, 600); again != 0 {
				t.Errorf("%d records came again", again)
			}
			if info, _ := os.Stat(path); info.Mode().Perm()&0o007 != 0 {
				t.Errorf("the file has the mode %v", info.Mode())
			}
		})
	}
}

// A file that is compressed and removed while it is written to takes no record with it.
func TestFileIsRemovedWhileItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log := newLog(0)
	r := start(t, log, t.TempDir(), []Sink{{Name: "file", Type: TypeJSONL, Path: path}})
	var a arrivals
	rotate := func() {
		err := os.Rename(path, path+".1")
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		text, readErr := os.ReadFile(path + ".1")
		if err := errors.Join(err, readErr, os.Remove(path+".1")); err != nil {
			t.Error(err)
		}
		for line := range bytes.Lines(text) {
			// A line that was being written is no record, and comes again.
			if line, whole := bytes.CutSuffix(line, []byte("\n")); whole {
				a.add(t, line)
			}
		}
	}
	stop := make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				rotate()
			}
		}
	})
	const count = 2000
	for range count {
		log.grow(1)
	}
	r.waitAcknowledged(count)
	close(stop)
	rotating.Wait()
	rotate()
	a.check(t, 0, count)
}

func TestDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		const message = "NOT TESTED: a small file system cannot be mounted: %v"
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatalf(message, err)
		}
		t.Skipf(message, err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	path, filler := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "filler")
	write(t, filler, strings.Repeat("x", 50_000))
	log := newLog(100) // some 50 kB
	r := start(t, log, t.TempDir(), []Sink{{Name: "file", Type: TypeJSONL, Path: path}})
	eventually(t, "the disk is full", func() bool { return r.Stats()[0].Failures >= 3 })
	if !strings.Contains(r.Stats()[0].Failing, "no space") {
		t.Errorf("it fails because of %q", r.Stats()[0].Failing)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.waitAcknowledged(100)
	var a arrivals
	a.add(t, linesOf(t, path)...)
	if again := a.check(t, 0, 100); again != 0 {
		t.Errorf("%d records stand there again: what was written in part was not taken back", again)
	}
}

// A line that a crash tore stands alone.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, `{"log":"x","seq":0}`+"\n"+`{"log":"x","se`)
	r := start(t, newLog(1), t.TempDir(), []Sink{{Name: "file", Type: TypeJSONL, Path: path}})
	r.waitAcknowledged(1)
	lines := linesOf(t, path)
	if len(lines) != 3 || string(lines[1]) != `{"log":"x","se` || !bytes.HasPrefix(lines[2], []byte(`{"log":"`+logID)) {
		t.Errorf("the lines are %q", lines)
	}
}

func TestPathsThatAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/null", filepath.Join(dir, "no", "file")} {
		r := start(t, newLog(1), t.TempDir(), []Sink{{Name: "file", Type: TypeJSONL, Path: path}})
		eventually(t, path+" is refused", func() bool { return r.Stats()[0].Failures >= 2 })
		if r.Acknowledged() != 0 {
			t.Errorf("%s: it counts as delivered", path)
		}
	}
}

// Nobody reads the standard output: a stop does not wait for it.
func TestPipeThatNobodyReads(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	p := quick
	p.attempt, p.drain = patience, quick.first
	r := start(t, newLog(3000), t.TempDir(), []Sink{{Name: "out", Type: TypeJSONL, Path: Stdout}}, withStdout(writer), withPace(p))
	eventually(t, "it is written to", func() bool { return r.Stats()[0].Lag > 0 })
	r.stop()
	if r.Acknowledged() == 3000 {
		t.Error("more counts as written than a pipe holds")
	}
}

// hostile is text that breaks out of lines, terminals and structured data.
const hostile = "a\nb\r\n<13>1 - - - - - - \x1b[31mred\x1b[0m\x00\x7f\u0085\u009b31m\u2028 \"] [x y=\"z\\\" \xff\xfe 😀"

func hostileRecord(seq uint64) execution.Record {
	r := decidedRecord(seq)
	r.Principal.Subject, r.Principal.Tenant, r.Execution, r.RequestID = hostile, hostile, hostile, hostile
	r.Decided.Metadata = map[string]string{hostile: hostile}
	return r
}

func TestHostileText(t *testing.T) {
	log := newLog(3)
	log.make = hostileRecord
	for _, format := range []Format{FormatJSON, FormatOCSF} {
		out := &lines{}
		start(t, log, t.TempDir(), []Sink{{Name: "out", Type: TypeJSONL, Path: Stdout, Format: format}}, withStdout(out)).waitAcknowledged(3)
		text := out.String()
		if n := strings.Count(text, "\n"); n != 3 {
			t.Errorf("%s: 3 records are %d lines", format, n)
		}
		control := slices.IndexFunc([]rune(text), func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r <= 0x9f || r == '\u2028' })
		if control >= 0 {
			t.Errorf("%s: a control character stands at %d", format, control)
		}
		if !strings.Contains(text, "😀") || !strings.Contains(text, `\u009b31m`) {
			t.Errorf("%s: text was lost: %s", format, text)
		}
	}
}
