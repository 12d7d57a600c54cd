package executor_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

func TestEventsComeInOrder(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	var types []string
	var stdout strings.Builder
	job := python("import sys\nfor i in range(3):\n    print(i)\nprint('err', file=sys.stderr)\nopen('/workspace/out/a.txt', 'w').write('x')")
	job.Events = func(event execution.Event) error {
		if n := len(types); n == 0 || types[n-1] != string(event.Type) {
			types = append(types, string(event.Type))
		}
		if event.Type == execution.EventStdout {
			stdout.Write(event.Data)
		}
		return nil
	}
	r := run(t, e, job)
	if types[0] != "started" || types[len(types)-1] != "artifact" {
		t.Errorf("events %v", types)
	}
	if stdout.String() != "0\n1\n2\n" || string(r.Stdout) != stdout.String() {
		t.Errorf("told %q, result %q", stdout.String(), r.Stdout)
	}
}

// A listener that does not return is backpressure: the program waits for it,
// the gateway holds no more than the granted output, and the timeout holds.
func TestListenerThatDoesNotReturnStallsTheProgram(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	job := python("import sys\nwhile True:\n    sys.stdout.write('x' * 65536)\n    open('/workspace/out/progress', 'a').write('x')")
	told, release := make(chan struct{}), make(chan struct{})
	saying := sync.OnceFunc(func() { close(told) })
	job.Events = func(event execution.Event) error {
		if event.Type == execution.EventStdout {
			saying()
			<-release
		}
		return nil
	}
	done := make(chan execution.Result, 1)
	begin := func(timeout int64) (says bool) {
		go func() {
			done <- run(t, e, job, func(l *execution.Limits) { l.TimeoutMS, l.OutputKiB = timeout, 8192 })
		}()
		select {
		case <-told:
			return true
		case r := <-done: // it had no processor
			t.Logf("within %d ms it says nothing: %s", timeout, describe(r))
			until(t, "its sandbox is gone", func() bool { return len(containers(t, "label=execgate.execution=ex_test_"+t.Name())) == 0 })
			return false
		}
	}
	timeout := int64(1500)
	for ; !begin(timeout); timeout *= 4 {
		if timeout > patience.Milliseconds() {
			t.Fatal("the program says nothing")
		}
	}
	until(t, "the program has ended all the same", func() bool { return programEnded(t, "label=execgate.execution=ex_test_"+t.Name()) })
	close(release)
	r := <-done
	if r.Outcome != execution.OutcomeTimedOut {
		t.Fatalf("outcome %s with %d bytes of output", r.Outcome, len(r.Stdout))
	}
	if len(r.Stdout) > 2<<20 {
		t.Errorf("%d bytes were taken from a program whose listener took none", len(r.Stdout))
	}
}

func TestListenerThatFailsEndsTheProgram(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	job := python("import time\nprint('x', flush=True)\ntime.sleep(600)")
	calls := 0
	job.Events = func(event execution.Event) error {
		calls++
		if event.Type == execution.EventStdout {
			return errors.New("gone")
		}
		return nil
	}
	r := run(t, e, job)
	if r.Outcome != execution.OutcomeCancelled || r.Usage.WallMS > lateAmongOthers.Milliseconds() {
		t.Fatalf("outcome %s after %d ms", r.Outcome, r.Usage.WallMS)
	}
	if calls != 2 {
		t.Errorf("the listener was called %d times", calls)
	}
}
