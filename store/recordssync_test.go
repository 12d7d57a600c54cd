package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// syncedIn names the variable by which this test, run as a child, knows its folder.
const syncedIn = "EXECGATE_STORE_SYNCED_IN"

// What retention is told is in the index is on the disk before it is told: a commit alone
// is not.
func TestSynced(t *testing.T) {
	records := []execution.Record{newRecord(0), newRecord(1)}
	if dir := os.Getenv(syncedIn); dir != "" {
		r := openRecords(t, filepath.Join(dir, "index.db"), someLog, 0)
		for i, record := range records {
			addRecords(t, r, []execution.Record{record})
			mark(t, dir, "added")
			for range 2 {
				if n, err := r.Synced(); err != nil || n != uint64(i+1) {
					t.Errorf("%d, %v", n, err)
				}
			}
			mark(t, dir, "told")
		}
		return
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	child := exec.CommandContext(t.Context(), "strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,fdatasync,mkdirat", os.Args[0], "-test.run=^TestSynced$")
	child.Env = append(os.Environ(), syncedIn+"="+dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`sync\(\d+<[^>]*/index\.db-wal>|mkdirat\([^"]*"[^"]*/(added|told)`).FindAllString(string(text), -1)
	for i, call := range calls {
		calls[i] = call[strings.LastIndexByte(call, '/')+1:]
	}
	// Making the index and closing it sync too.
	_, got, _ := strings.Cut(strings.Join(calls, " "), "added ")
	got = got[:max(strings.LastIndex(got, " told"), 0)]
	if got != "index.db-wal> told added index.db-wal>" {
		t.Errorf("%s\nof\n%s", got, text)
	}
}

// mark leaves a mark in what strace sees.
func mark(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, text)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// What cannot be synced is not told.
func TestNotSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.db")
	r := openRecords(t, path, someLog, 0)
	addRecords(t, r, []execution.Record{newRecord(0)})
	log := path + "-wal"
	if err := os.Rename(log, log+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(log, 0o700); err != nil { // which nobody can open for writing
		t.Fatal(err)
	}
	if n, err := r.Synced(); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log+".aside", log); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Synced(); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := r.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Synced(); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func newRecord(seq uint64) execution.Record {
	return execution.Record{V: execution.RecordVersion, Seq: seq, Type: execution.RecordHeartbeat, Time: time.Unix(int64(seq), 0).UTC()}
}
