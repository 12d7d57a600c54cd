package executor_test

import (
	"context"
	"slices"
	"testing"

	"github.com/execgate/execgate/execution"
)

// Who runs a job is told once how its program began, and before it is over.
func TestHowProgramsBeginIsTold(t *testing.T) {
	t.Parallel()
	var told []execution.Start
	telling := func(job execution.Job) execution.Job {
		job.Started = func(s execution.Start) { told = append(told, s) }
		return job
	}
	want := func(what string, starts ...execution.Start) {
		t.Helper()
		if !slices.Equal(told, starts) {
			t.Errorf("%s: told %q, want %q", what, told, starts)
		}
		told = nil
	}
	e := newExecutor(t, warm(1))
	untilParked(t, e, 1)
	run(t, e, telling(python("result = 1")))
	want("a parked sandbox", execution.StartWarm)
	run(t, e, telling(command("/bin/true")))
	want("a sandbox of its own", execution.StartCold)
	listened := telling(command("/bin/true"))
	listened.Events = func(execution.Event) error { return nil }
	run(t, e, listened)
	want("somebody listens", execution.StartCold)

	execute := reusing(t, e, somebody)
	execute(telling(command("/bin/true")))
	execute(telling(command("/bin/true")))
	want("one owner's", execution.StartCold, execution.StartReuse)

	_, inIt := inSession(t, e, "python")
	inIt(telling(python("x = 1")))
	inIt(telling(python("x += 1")))
	want("a session", execution.StartSession, execution.StartSession)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	job := telling(command("/bin/true"))
	image := resolve(t, e, "python")
	job.ID, job.Grant = "ex_test_gone", execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}
	if r, err := e.Execute(gone, job); err != nil || r.Outcome != execution.OutcomeCancelled {
		t.Fatalf("outcome %s, %v", r.Outcome, err)
	}
	want("a caller that is gone")
}
