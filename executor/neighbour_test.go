package executor_test

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// No two sandboxes share a user, so that what the kernel counts by user is not
// shared either: the neighbour of one that took every inotify instance, pipe
// page and process has its own.
func TestNeighboursShareNothing(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := executing(t, e, timeout(600_000))
	hoarding := make(chan execution.Result, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		r, err := execute(ctx, "ex_test_hoarder", python("import signal, threading\ntry:\n    while True: threading.Thread(target=signal.pause, daemon=True).start()\nexcept RuntimeError: pass\n"+inotifyHoarder))
		if err != nil {
			t.Error(err)
		}
		hoarding <- r
	}()
	// It has begun to hoard once it holds all its processes.
	until(t, "the hoarder is at its limit", func() bool { return tasks(t, "label=execgate.execution=ex_test_hoarder") >= 50 })
	r := hostile{want: execution.OutcomeExited, job: python(`
import ctypes, os
libc = ctypes.CDLL(None)
assert libc.inotify_init() >= 0
import signal, threading
for _ in range(40): threading.Thread(target=signal.pause, daemon=True).start()
result = os.getuid()
`)}.attack(t, e)
	again := hostile{want: execution.OutcomeExited, job: python("import os\nresult = os.getuid()")}.attack(t, e)
	if string(r.Value) == string(again.Value) || len(r.Value) < 6 {
		t.Errorf("users %s and %s", r.Value, again.Value)
	}
	stop()
	if r := <-hoarding; r.Outcome != execution.OutcomeCancelled {
		t.Error(describe(r))
	}
}

// execute runs a job under an id of its own, by its own context.
func execute(ctx context.Context, e *executor.Executor, id string, job execution.Job) (execution.Result, error) {
	image, err := e.Resolve(context.WithoutCancel(ctx), "", "python")
	if err != nil {
		return execution.Result{}, err
	}
	job.ID = id
	job.Grant = execution.Grant{Image: image.Digest, Runtime: cmp.Or(job.Grant.Runtime, "runc"), Limits: granted()}
	return e.Execute(ctx, job)
}

// executing is execute, once the engine says what the image is.
func executing(t testing.TB, e *executor.Executor, change ...func(*execution.Limits)) func(ctx context.Context, id string, job execution.Job) (execution.Result, error) {
	t.Helper()
	image := resolve(t, e, "python")
	return func(ctx context.Context, id string, job execution.Job) (execution.Result, error) {
		job.ID = id
		job.Grant = execution.Grant{Image: image.Digest, Runtime: cmp.Or(job.Grant.Runtime, "runc"), Limits: granted()}
		for _, f := range change {
			f(&job.Grant.Limits)
		}
		return e.Execute(ctx, job)
	}
}

// Under gVisor no count of the host's kernel is the program's at all.
func TestNeighboursShareNothingUnderGVisor(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	hoarding := make(chan error, 1)
	hoard, execute := under("runsc", python(inotifyHoarder)), executing(t, e, timeout(600_000))
	go func() {
		_, err := execute(ctx, "ex_test_hoarder_gvisor", hoard)
		hoarding <- err
	}()
	until(t, "the hoarder is up", func() bool {
		return len(containers(t, "label=execgate.execution=ex_test_hoarder_gvisor")) == 1
	})
	hostile{want: execution.OutcomeExited, job: python(`
import ctypes, os
libc = ctypes.CDLL(None)
assert libc.inotify_init() >= 0
pipes = [os.pipe() for _ in range(100)]
import signal, threading
for _ in range(40): threading.Thread(target=signal.pause, daemon=True).start()
`)}.under("runsc").attack(t, e)
	stop()
	if err := <-hoarding; err != nil {
		t.Error(err)
	}
}

// With fewer users than executions, those that find none are told to wait.
func TestUsersRunOut(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, func(c *executor.Config) { c.UIDs = executor.UIDRange{First: 300_000, Count: 1} })
	execute := executing(t, e, timeout(600_000))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { execute(ctx, "ex_test_first", shell("sleep 600")) })
	until(t, "the first runs", func() bool { return len(containers(t, "name=execgate-300000")) == 1 })
	if _, err := execute(t.Context(), "ex_test_second", shell("true")); execution.KindOf(err) != execution.KindUnavailable {
		t.Errorf("error %v", err)
	}
	stop()
	wg.Wait()
	until(t, "the user is free again", func() bool {
		_, err := execute(t.Context(), "ex_test_third", shell("true"))
		return err == nil
	})
}

// Many at once, with every kind of end, leave nothing and share no state.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := executing(t, e)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			ctx := t.Context()
			if i%4 == 3 {
				short, cancel := context.WithTimeout(ctx, time.Duration(i)*30*time.Millisecond)
				defer cancel()
				ctx = short
			}
			text := strings.Repeat(string(rune('a'+i)), 1000)
			job := shell("cat; sleep 0.2")
			job.Stdin = text
			r, err := execute(ctx, "ex_test_many_"+text[:3], job)
			if i%4 != 3 && (err != nil || string(r.Stdout) != text) {
				t.Errorf("%d: %v, %s", i, err, describe(r))
			}
		})
	}
	wg.Wait()
}
