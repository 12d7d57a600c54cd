package executor_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// abandon makes a container as a gateway that died would have left it.
func abandon(t testing.TB, gateway, id string, deadline time.Time) string {
	t.Helper()
	container := docker(t, "create", "--network", "none", "--label", "execgate.gateway="+gateway, "--label", "execgate.execution="+id,
		"--label", fmt.Sprintf("execgate.deadline=%d", deadline.UnixMilli()), "-v", "/data", "--entrypoint", "/bin/sleep", reference, "600")
	// Gateways of other tests may have removed it already, where its deadline is over.
	if out, err := exec.Command("docker", "start", container).CombinedOutput(); err != nil && time.Now().Before(deadline) {
		t.Fatalf("start %s: %v: %s", container, err, out)
	}
	t.Cleanup(func() {
		if len(containers(t, "id="+container)) > 0 {
			docker(t, "rm", "-fv", container)
		}
	})
	return container
}

// Invariant 5, in part: every container is removed, also those of a gateway
// that was killed.
func TestReap(t *testing.T) {
	t.Parallel()
	gateway := execution.NewID("test_", time.Now())
	e := newExecutor(t, func(c *executor.Config) { c.Gateway = gateway })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := make(chan execution.Result, 1)
	begun := make(chan struct{})
	execute := executing(t, e, timeout(600_000))
	job := shell("while :; do echo on; sleep 0.05; done")
	job.Started = func(execution.Start) { close(begun) }
	var reaped atomic.Bool
	job.Events = func(event execution.Event) error {
		if event.Type == execution.EventStdout && reaped.Load() {
			cancel() // it goes on all the same
		}
		return nil
	}
	go func() {
		r, err := execute(ctx, "ex_test_running", job)
		if err != nil {
			t.Error(err)
		}
		running <- r
	}()
	select {
	case <-begun:
	case r := <-running:
		t.Fatal(describe(r))
	}
	volumes := anonymousVolumes(t)

	other := "other_" + gateway
	cases := map[string]struct {
		id   string
		gone bool
	}{
		"our own, before its deadline":       {abandon(t, gateway, "ex_1", time.Now().Add(time.Hour)), true},
		"our own, past its deadline":         {abandon(t, gateway, "ex_2", time.Now().Add(-time.Hour)), true},
		"another's, before its deadline":     {abandon(t, other, "ex_3", time.Now().Add(time.Hour)), false},
		"another's, past its deadline":       {abandon(t, other, "ex_4", time.Now().Add(-time.Second)), true},
		"another's, of the id that we run":   {abandon(t, other, "ex_test_running", time.Now().Add(-time.Second)), true},
		"another's, without a real deadline": {docker(t, "create", "--label", "execgate.gateway="+other, "--label", "execgate.deadline=never", reference, "x"), false},
	}
	t.Cleanup(func() { docker(t, "rm", "-f", cases["another's, without a real deadline"].id) })
	until(t, "it has reaped", func() bool { // an engine that has much to do may not answer at first
		err := e.Reap(t.Context())
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	reaped.Store(true)
	for name, c := range cases {
		there := func() bool { return len(containers(t, "id="+c.id)) > 0 }
		if c.gone { // somebody else may be about to remove it, which Reap leaves to that one
			until(t, name+" is gone", func() bool { return !there() })
		} else if !there() {
			t.Errorf("%s: it is gone", name)
		}
	}
	if r := <-running; r.Outcome != execution.OutcomeCancelled {
		t.Errorf("the reaper took a running execution: %s", describe(r))
	}
	docker(t, "rm", "-fv", cases["another's, before its deadline"].id)
	untilNoVolumeIsLeft(t, volumes)
}

// What an earlier life left is gone soon after Run begins.
func TestRunReapsAtStart(t *testing.T) {
	t.Parallel()
	gateway := execution.NewID("test_", time.Now())
	newExecutor(t)
	id := abandon(t, gateway, "ex_1", time.Now().Add(time.Hour))
	newExecutor(t, func(c *executor.Config) { c.Gateway = gateway })
	until(t, "the abandoned sandbox is gone", func() bool { return len(containers(t, "id="+id)) == 0 })
}

// A caller that hangs up ends the sandbox within a second, whatever it does. Each
// program says when it does it.
func TestCancel(t *testing.T) {
	e := newExecutor(t)
	execute := executing(t, e)
	for name, job := range map[string]execution.Job{
		"sleeping":        shell("echo on; sleep 600"),
		"ignoring":        shell("trap '' TERM INT; echo on; while :; do :; done"),
		"a fork bomb":     python("import os\nsaid = False\nwhile True:\n    try: os.fork()\n    except OSError:\n        if not said: said = not print('on', flush=True)\n"),
		"flooding":        shell("echo on; exec yes >/dev/null"),
		"stopped":         shell("echo on; kill -STOP $$"),
		"reading nothing": func() execution.Job { j := shell("echo on; sleep 600"); j.Stdin = strings.Repeat("x", 4<<20); return j }(),
	} {
		t.Run(name, func(t *testing.T) {
			promptly(t, "to be gone once it is cancelled", time.Second, func() time.Duration {
				id := "ex_test_cancel_" + strings.ReplaceAll(name, " ", "_")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				on, done := make(chan struct{}), make(chan execution.Result, 1)
				said := sync.OnceFunc(func() { close(on) })
				job.Events = func(event execution.Event) error {
					if event.Type == execution.EventStdout {
						said()
					}
					return nil
				}
				go func() {
					r, err := execute(ctx, id, job)
					if err != nil {
						t.Error(err)
					}
					done <- r
				}()
				select {
				case <-on:
				case r := <-done:
					t.Fatal(describe(r))
				}
				cancel()
				cancelled := time.Now()
				until(t, "the container is gone", func() bool { return len(containers(t, "label=execgate.execution="+id)) == 0 })
				took := time.Since(cancelled)
				r := <-done
				if r.Outcome != execution.OutcomeCancelled || r.ExitCode != nil {
					t.Error(describe(r))
				}
				if r.Usage.PeakMemoryMiB == 0 {
					t.Errorf("what was used is lost: %+v", r.Usage)
				}
				return took
			})
		})
	}
}

func TestCancelledBeforeItStarts(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := executing(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := execute(ctx, "ex_test_before", shell("true")); err != nil || r.Outcome != execution.OutcomeCancelled {
		t.Errorf("%v, %s", err, describe(r))
	}
}

// Once Run is stopping nothing begins, and it returns when all is removed.
func TestStopping(t *testing.T) {
	t.Parallel()
	var cfg executor.Config
	newExecutor(t, func(c *executor.Config) { cfg = *c })
	cfg.Gateway = execution.NewID("test_", time.Now())
	e, err := executor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	execute := executing(t, e)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	running, first := make(chan struct{}), make(chan error, 1)
	drained := shell("sleep 2; echo done")
	drained.Started = func(execution.Start) { close(running) }
	go func() {
		r, err := execute(t.Context(), "ex_test_drained", drained)
		if string(r.Stdout) != "done\n" {
			t.Error(describe(r))
		}
		first <- err
	}()
	select {
	case <-running:
	case err := <-first:
		t.Fatal(err)
	}
	stop()
	until(t, "executions are refused", func() bool {
		_, err := execute(t.Context(), "ex_test_late", shell("true"))
		return execution.KindOf(err) == execution.KindUnavailable
	})
	if err := <-ran; err != nil {
		t.Error(err)
	}
	// Had it returned before the execution ended, that one's would run on.
	untilNoneIsLeft(t, cfg.Gateway)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
