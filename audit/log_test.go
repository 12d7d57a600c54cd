package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/sys/unix"
)

// running opens the log in dir and runs it; stop ends it and waits.
func running(t testing.TB, cfg Config) (l *Log, stop func()) {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return l, stop
}

// folders returns a configuration in a folder of its own, in memory where the machine
// has a folder for that: few tests are about the disk.
func folders(t testing.TB) Config {
	var kind unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &kind); err == nil && kind.Type == unix.TMPFS_MAGIC {
		if state, err := os.MkdirTemp("/dev/shm", "execgate-audit-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(state) })
			return inState(state)
		}
	}
	return inState(t.TempDir())
}

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// inState returns a configuration in the folder state. Few tests are about a disk that is
// slow.
func inState(state string) Config {
	return Config{Dir: filepath.Join(state, "audit"), KeyDir: filepath.Join(state, "keys"), SegmentBytes: minSegmentBytes, Budget: patience}
}

// decided returns a decision with effect, of an execution named by n.
func decided(n int, effect execution.Effect) execution.Record {
	return execution.Record{
		Type: execution.RecordDecided, Execution: fmt.Sprintf("ex_%026d", n),
		Principal: &execution.Principal{Subject: "ak_1", Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey},
		Decided: &execution.Decided{
			RequestSHA256: "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c", Language: "python",
			Decision: execution.Decision{
				Effect: effect, Reasons: []execution.Reason{{Code: "default_allow", Rule: "base.allow"}},
				Revision: "sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
			},
		},
	}
}

// started returns the beginning of the execution that record seq opened.
func started(n int, seq uint64) execution.Record {
	return execution.Record{
		Type: execution.RecordStarted, Execution: fmt.Sprintf("ex_%026d", n),
		Started: &execution.Started{DecidedSeq: seq, Start: execution.StartWarm},
	}
}

// ended returns the end of the execution that record seq opened.
func ended(n int, seq uint64) execution.Record {
	code := 0
	return execution.Record{
		Type: execution.RecordEnded, Execution: fmt.Sprintf("ex_%026d", n),
		Ended: &execution.Ended{DecidedSeq: seq, Outcome: execution.OutcomeExited, ExitCode: &code, Usage: execution.Usage{LimitsHit: []string{}}},
	}
}

func mustAppend(t testing.TB, l *Log, rec execution.Record) uint64 {
	t.Helper()
	seq, err := l.Append(t.Context(), rec)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return seq
}

func mustVerify(t testing.TB, cfg Config, verifier string) Report {
	t.Helper()
	report, err := Verify(cfg.Dir, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Integrity.OK || !report.Completeness.OK {
		t.Fatalf("verify: integrity %v\ncompleteness %v", report.Integrity, report.Completeness)
	}
	return report
}

// fill appends n executions that ended, and returns how many records that are.
func fill(t testing.TB, l *Log, n int) int {
	t.Helper()
	for i := range n {
		mustAppend(t, l, ended(i, mustAppend(t, l, decided(i, execution.EffectAllow))))
	}
	return 2 * n
}

func TestRecordsAreReadBackInOrder(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	want := fill(t, l, 200)
	stop()
	report := mustVerify(t, cfg, l.Verifier())
	if report.Segments < 2 || report.Records != uint64(want) || report.Decided != 200 || report.Ended != 200 {
		t.Errorf("report is %+v", report)
	}
	next := uint64(0)
	for rec, err := range Read(cfg.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq != next {
			t.Fatalf("record %d stands where %d should", rec.Seq, next)
		}
		next++
	}
	if next != uint64(want) {
		t.Errorf("read %d records, want %d", next, want)
	}
	l, stop = running(t, cfg)
	if got := mustAppend(t, l, decided(1000, execution.EffectDeny)); got != uint64(want) {
		t.Errorf("the first record after reopening is %d, want %d", got, want)
	}
	stop()
	mustVerify(t, cfg, l.Verifier())
}
