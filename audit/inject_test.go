package audit

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// injectState names the variable by which the test binary, run as a child, knows the
// folder in which it is to do the workload, and injectPatience the one that says how long
// it waits for retention, which is beside it and which a fault may have ended.
const (
	injectState    = "EXECGATE_AUDIT_INJECT_STATE"
	injectPatience = "EXECGATE_AUDIT_INJECT_PATIENCE"
)

// injected is the configuration of the log in state that is worked on.
func injected(state string) Config {
	cfg := inState(state)
	cfg.MaxBytes, cfg.DropExported = 4*minSegmentBytes, true
	return cfg
}

// ending is told before an end is appended: it may be durable, and removed again, before
// a killed process tells of it.
const ending execution.RecordType = "ending"

// tell writes a line about a record that was acknowledged.
func tell(rec execution.Record, seq uint64) {
	ref := uint64(0)
	if rec.Ended != nil {
		ref = rec.Ended.DecidedSeq
	}
	// One write(2) a line: what was written before a kill is in the pipe.
	fmt.Fprintf(os.Stdout, "%s %d %s %d\n", rec.Type, seq, rec.Execution, ref)
}

// told notes what tell wrote in a child.
func (c *checker) told(t *testing.T, line string) (kind string, seq uint64) {
	t.Helper()
	var id string
	var ref uint64
	if _, err := fmt.Sscanf(line, "%s %d %s %d", &kind, &seq, &id, &ref); err != nil {
		t.Fatalf("the child says %q", line)
	}
	switch execution.RecordType(kind) {
	case execution.RecordDecided:
		c.ack(t, seq, id)
		c.open[seq] = true
	case ending:
		delete(c.open, ref)
	case execution.RecordEnded:
		c.ack(t, seq, id)
		delete(c.open, ref)
	}
	return kind, seq
}

// workInjected does the workload and writes a line for each record that was
// acknowledged.
func workInjected(state string) {
	wait, err := time.ParseDuration(os.Getenv(injectPatience))
	if err != nil {
		panic(err)
	}
	removed, err := workload(injected(state), 14, wait, func(rec execution.Record, seq uint64, err error) bool {
		if err == nil {
			tell(rec, seq)
		}
		return err == nil
	})
	if err == nil {
		fmt.Fprintf(os.Stdout, "removed %d - 0\n", removed)
	}
}

// strace runs the workload in state under strace (not with --seccomp-bpf, by which 6.1
// passes over a first call) with further flags and notes what was
// acknowledged. It returns how many segments were removed, and what strace saw.
func (c *checker) strace(t *testing.T, state string, wait time.Duration, flags ...string) (removed uint64, seen string) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "strace", slices.Concat([]string{"-f", "-y", "-o", trace}, flags, []string{os.Args[0]})...)
	cmd.Env = append(os.Environ(), injectState+"="+state, injectPatience+"="+wait.String())
	out, err := cmd.Output() // it may have been killed
	if ctx.Err() != nil {
		t.Fatalf("strace %q did not end: %v", flags, err)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if kind, n := c.told(t, lines.Text()); kind == "removed" {
			removed = n
		}
	}
	return removed, string(text)
}

// diskCalls are the system calls by which a log reaches the disk.
var diskCalls = []string{"openat", "mkdirat", "fallocate", "pwrite64", "sync_file_range", "fdatasync", "renameat", "fsync", "unlinkat", "statx"}

// callsOf counts the disk's calls of a workload without a fault: of each the numbers,
// within their thread as strace counts, of those that are about the log.
func callsOf(t *testing.T) map[string][]int {
	t.Helper()
	state, c := t.TempDir(), newChecker()
	removed, seen := c.strace(t, state, patience, "-e", "trace="+strings.Join(diskCalls, ","))
	if removed == 0 || len(c.acked) != 28 {
		t.Fatalf("%d segments were removed, %d records acknowledged", removed, len(c.acked))
	}
	counts, found := map[string]int{}, map[string][]int{}
	for line := range strings.Lines(seen) {
		thread, rest, _ := strings.Cut(line, " ")
		call, _, ok := strings.Cut(strings.TrimSpace(rest), "(")
		if !ok || strings.HasPrefix(call, "<") {
			continue // the end of a call that was interrupted
		}
		counts[thread+call]++
		if strings.Contains(rest, state) {
			found[call] = append(found[call], counts[thread+call])
		}
	}
	for call, numbers := range found {
		slices.Sort(numbers)
		found[call] = slices.Compact(numbers)
	}
	return found
}

// Invariant 9: no acknowledged record is ever lost. System calls of a real process on
// a real file system fail, or are the last thing that it does. Each call is tried at a
// few of its numbers, or at all of them where EXECGATE_AUDIT_INJECT says all.
func TestSystemCallsFail(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("strace is missing: run scripts/setup --tests")
		}
		t.Skip("strace is missing, no system call fails: run scripts/setup --tests")
	}
	found := callsOf(t)
	for _, call := range diskCalls {
		numbers := found[call]
		if len(numbers) == 0 {
			t.Errorf("the log never calls %s", call)
			continue
		}
		if tries := 3; os.Getenv("EXECGATE_AUDIT_INJECT") != "all" && len(numbers) > tries {
			numbers = []int{numbers[0], numbers[len(numbers)/2], numbers[len(numbers)-1]}
		}
		for _, fault := range []string{"signal=SIGKILL", "error=EIO", "error=ENOSPC"} {
			t.Run(call+"/"+fault, func(t *testing.T) {
				t.Parallel()
				// Which thread makes a call differs from run to run, but each that makes
				// it makes a first: where nothing else happens, that one does.
				hits, tries := 0, slices.Concat(numbers, []int{1})
				for i, n := range tries {
					if i == len(numbers) && hits > 0 {
						break
					}
					state := t.TempDir()
					c := newChecker()
					_, seen := c.strace(t, state, time.Second, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, n))
					if strings.Contains(seen, "(INJECTED)") || strings.Contains(seen, "killed by SIGKILL") {
						hits++
					}
					c.recovered(t, injected(state))
					if t.Failed() {
						t.Fatalf("at call %d", n)
					}
				}
				if hits == 0 {
					t.Error("no fault happened")
				}
			})
		}
	}
}
