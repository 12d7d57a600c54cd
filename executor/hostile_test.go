package executor_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// docs/sandbox.md, "What is tried against it", lists the cases and their tests.
// Every hostile_*_test.go runs programs that mean harm in real sandboxes and
// says what each comes to: its outcome, and what the caller is told.

// hostile is one program that means harm, and what must come of it.
type hostile struct {
	name   string
	job    execution.Job
	limits func(*execution.Limits)
	want   execution.Outcome
	or     execution.Outcome // as good as want, where it is not empty
	exit   int               // where want is exited
	hit    []string          // limits that the caller is told were met; nil: not looked at
	stdout string            // a part of it
	check  func(testing.TB, execution.Result)
	before func()         // is called before each try
	gvisor func(*hostile) // what is different under gVisor, and why is said beside it
}

// late is how far past its limit an execution may end (promptly); lateAmongOthers is
// that of any beside many others, of which all that is asked is that somebody ends it:
// by itself none of these programs does.
const (
	late            = time.Second
	lateAmongOthers = 30 * time.Second
)

// attack runs one hostile program and checks what came of it.
func (h hostile) attack(t testing.TB, e *executor.Executor) execution.Result {
	t.Helper()
	r := h.run(t, e, 1)
	// One that is to do something before its time is over may have had no processor.
	for slower := int64(4); r.Outcome == execution.OutcomeTimedOut && h.want == r.Outcome && !h.seen(r) && slower <= 64; slower *= 4 {
		r = h.run(t, e, slower)
	}
	if h.or != "" && r.Outcome == h.or {
		h.want, h.hit = h.or, nil
	}
	if r.Outcome != h.want {
		t.Errorf("%s: outcome %s, want %s: %s", h.name, r.Outcome, h.want, describe(r))
	}
	switch {
	case h.want != execution.OutcomeExited && r.ExitCode != nil:
		t.Errorf("outcome %s has exit code %d", r.Outcome, *r.ExitCode)
	case h.want == execution.OutcomeExited && r.ExitCode != nil && *r.ExitCode != h.exit:
		t.Errorf("exit code %d, want %d: %s", *r.ExitCode, h.exit, describe(r))
	}
	if h.hit != nil && !slices.Equal(h.hit, r.Usage.LimitsHit) {
		t.Errorf("limits_hit %v, want %v", r.Usage.LimitsHit, h.hit)
	}
	if !strings.Contains(string(r.Stdout), h.stdout) {
		t.Errorf("stdout lacks %q: %s", h.stdout, describe(r))
	}
	if h.check != nil {
		h.check(t, r)
	}
	return r
}

// run runs it, with that many times its timeout.
func (h hostile) run(t testing.TB, e *executor.Executor, slower int64) execution.Result {
	t.Helper()
	if h.before != nil {
		h.before()
	}
	var timeout time.Duration
	var started time.Time
	h.job.Events = func(e execution.Event) error {
		if e.Type == execution.EventStarted {
			started = time.Now()
		}
		return nil
	}
	r := run(t, e, h.job, func(l *execution.Limits) {
		if h.limits != nil {
			h.limits(l)
		}
		l.TimeoutMS *= slower
		timeout = time.Duration(l.TimeoutMS) * time.Millisecond
	})
	if took := time.Since(started); !started.IsZero() && took > timeout+lateAmongOthers {
		t.Errorf("%s: took %s with a timeout of %s", h.name, took, timeout)
	}
	return r
}

// seen reports whether r shows what the program was to do.
func (h hostile) seen(r execution.Result) bool {
	return strings.Contains(string(r.Stdout), h.stdout) && (h.hit == nil || slices.Equal(h.hit, r.Usage.LimitsHit))
}

// runtimes are those that every hostile program is run under.
var runtimes = []string{"runc", "runsc"}

// underEach runs a test under each runtime.
func underEach(t *testing.T, test func(t *testing.T, runtime string)) {
	have := strings.Fields(docker(t, "info", "--format", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}"))
	for _, runtime := range runtimes {
		if !slices.Contains(have, runtime) {
			t.Fatalf("the engine has no runtime %s: run scripts/setup --gvisor", runtime)
		}
		t.Run(runtime, func(t *testing.T) { test(t, runtime) })
	}
}

// attacks runs a table of hostile programs under each runtime, a few at once.
func attacks(t *testing.T, list []hostile) {
	e := newExecutor(t)
	underEach(t, func(t *testing.T, runtime string) {
		t.Parallel()
		for _, h := range list {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				h.under(runtime).attack(t, e)
			})
		}
	})
}

// under is the program under a runtime, with what is expected of it there.
func (h hostile) under(runtime string) hostile {
	h.job.Grant.Runtime = runtime
	if runtime != "runsc" {
		return h
	}
	if h.gvisor != nil {
		h.gvisor(&h)
	}
	// All of gVisor is killed with the program, and the engine may learn of the
	// reason only after the end.
	if h.want == execution.OutcomeOutOfMemory {
		h.or = execution.OutcomeKilled
	}
	return h
}

// under is the job under a runtime.
func under(runtime string, job execution.Job) execution.Job {
	job.Grant.Runtime = runtime
	return job
}

// describe is a Result in one readable line.
func describe(r execution.Result) string {
	const most = 2000
	exit := "none"
	if r.ExitCode != nil {
		exit = fmt.Sprint(*r.ExitCode)
	}
	return fmt.Sprintf("outcome %s, exit code %s, usage %+v, result %.200s %s, stdout %.*q, stderr %.*q",
		r.Outcome, exit, r.Usage, r.Value, r.ValueError, most, r.Stdout, most, r.Stderr)
}

// shell is a command that runs a line of sh.
func shell(script string) execution.Job { return command("/bin/sh", "-c", script) }

// patience is how long a test waits for what must come: much longer than it takes on
// a machine that does a lot beside.
const patience = 4 * time.Minute

// until polls until ok, and fails the test when that takes too long.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// promptly fails the test unless what try measures is within limit. A machine that
// does a lot beside is late with everything: try has several chances, and each what
// the engine needs at that moment to kill a container of which nothing else is asked.
func promptly(t testing.TB, what string, limit time.Duration, try func() time.Duration) {
	t.Helper()
	const tries = 5
	for range tries {
		took := try()
		if took <= limit {
			return
		}
		allowed := limit + killTime(t)
		t.Logf("%s took %s, on this machine at most %s", what, took, allowed)
		if took <= allowed {
			return
		}
	}
	t.Errorf("%s took longer than %s in %d of %d tries", what, limit, tries, tries)
}

// killTime is how long the engine takes to kill a container that does nothing.
func killTime(t testing.TB) time.Duration {
	t.Helper()
	id := docker(t, "run", "-d", "--network", "none", "--entrypoint", "/bin/sleep", reference, "600")
	defer docker(t, "rm", "-fv", id)
	began := time.Now()
	docker(t, "kill", id)
	return time.Since(began)
}

// The whole zoo at once, beside an execution that must not notice: this many
// is what a machine of two cores starts in a reasonable time.
func TestHostileBatchBesideWellBehaved(t *testing.T) {
	e := newExecutor(t)
	underEach(t, func(t *testing.T, runtime string) { batchBesideWellBehaved(t, e, runtime) })
}

func batchBesideWellBehaved(t *testing.T, e *executor.Executor, runtime string) {
	quarter := func(l *execution.Limits) { l.CPUMillis, l.TimeoutMS = 250, 3000 }
	batch := []hostile{
		{name: "fork bomb", gvisor: withRoom, job: python("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"), limits: quarter, want: execution.OutcomeTimedOut},
		{name: "memory bomb", job: python("b=[]\nwhile True: b.append(bytearray(8<<20))"), want: execution.OutcomeOutOfMemory},
		{name: "output flood", job: shell("yes"), want: execution.OutcomeOutputLimit},
		{name: "spinning threads", job: python("import threading\ndef f():\n    while True: pass\nfor _ in range(30): threading.Thread(target=f).start()\n"), limits: quarter, want: execution.OutcomeTimedOut},
		{name: "disk fill", job: shell("dd if=/dev/zero of=/workspace/x bs=1M; exit 1"), want: execution.OutcomeDiskLimit},
		{name: "signals", gvisor: func(h *hostile) { h.or = execution.OutcomeKilled }, job: shell("trap '' TERM; kill -9 -1; while :; do :; done"), limits: quarter, want: execution.OutcomeTimedOut},
		{name: "inotify", job: python(inotifyHoarder), limits: func(l *execution.Limits) { l.TimeoutMS = 4000 }, want: execution.OutcomeTimedOut},
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, h := range batch {
		h = h.under(runtime)
		if runtime == "runsc" && h.or == "" {
			h.or = execution.OutcomeKilled // beside the others a program's gVisor may not last until its time is over
		}
		wg.Go(func() { h.attack(t, e) })
	}
	var gentle int
	var slowest time.Duration // of its own time
	done := make(chan struct{})
	go func() {
		defer close(done)
		for gentle == 0 || ctx.Err() == nil {
			r := run(t, e, under(runtime, python("import time\nt=time.monotonic()\nx=sum(range(100000))\nresult={'x':x}\nopen('/workspace/out/a','w').write('kept')\n")))
			slowest = max(slowest, time.Duration(r.Usage.WallMS)*time.Millisecond)
			gentle++
			if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 || string(r.Value) != `{"x":4999950000}` || len(r.Artifacts) != 1 || len(r.Usage.LimitsHit) > 0 {
				t.Errorf("the well-behaved execution noticed: %s", describe(r))
				return
			}
		}
	}()
	wg.Wait()
	stop()
	<-done
	if slowest > lateAmongOthers {
		t.Errorf("%d well-behaved executions, the slowest took %s", gentle, slowest)
	}
	t.Logf("%d well-behaved executions beside the batch, the slowest in %s", gentle, slowest)
}

// inotifyHoarder takes every inotify instance that its user may have, and keeps them.
const inotifyHoarder = `
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
n = 0
while libc.inotify_init() >= 0: n += 1
print(n, flush=True)
time.sleep(600)
`

func itoa(n int64) string { return fmt.Sprint(n) }
