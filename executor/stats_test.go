package executor_test

import (
	"context"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// untilStats waits until the executor's counts are as reached wants them.
func untilStats(t testing.TB, e *executor.Executor, what string, reached func(executor.Stats) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !reached(e.Stats()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not so: %s: %+v", what, e.Stats())
		}
	}
}

func TestStatsOfThePool(t *testing.T) {
	t.Parallel()
	var gateway string
	e := newExecutor(t, warm(1), func(c *executor.Config) { gateway = c.Gateway })
	untilParked(t, e, 1)
	docker(t, "kill", containers(t, "label=execgate.gateway="+gateway)[0])
	untilStats(t, e, "the dead sandbox is replaced", func(s executor.Stats) bool {
		return s.Discards["died"] == 1 && s.Shelves[0].Parked == 1
	})
	if r := run(t, e, python("result = 1")); !r.Usage.Warm {
		t.Error("the execution did not start warm")
	}
	if r := run(t, e, python("result = 1"), func(l *execution.Limits) { l.TmpMiB = 5 }); r.Usage.Warm {
		t.Error("the execution of another shape did not start cold")
	}
	untilStats(t, e, "the shelf is full again", func(s executor.Stats) bool { return s.Shelves[0].Parked == 1 })
	s := e.Stats()
	if s.Claims["warm"] != 1 || s.Claims["shape"] != 1 || s.Claims["empty"] != 0 {
		t.Errorf("claims %v", s.Claims)
	}
	if s.Builds["pool"].Count != 3 || s.Builds["execution"].Count != 1 || s.FailedBuilds["pool"] != 0 {
		t.Errorf("built %+v, failed %v", s.Builds, s.FailedBuilds)
	}
	if s.Executions[executor.StartWarm].Count != 1 || s.Executions[executor.StartCold].Count != 1 {
		t.Errorf("executions %+v", s.Executions)
	}
	want := executor.ShelfStats{Image: "python", Language: "python", Runtime: "runc", Parked: 1, Wanted: 1}
	if len(s.Shelves) != 1 || s.Shelves[0] != want {
		t.Errorf("shelves %+v", s.Shelves)
	}
}

func TestStatsOfReuseAndSessions(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	mine := reusing(t, e, somebody)
	for range 2 {
		exitedWell(t, mine(python(container)))
	}
	s := e.Stats()
	if s.Reuses != 1 || s.ReusedBusy != 0 || s.ReusedIdle != 1 || s.FailedCleanings != 0 || s.Builds["reuse"].Count != 1 {
		t.Errorf("%+v", s)
	}
	if s.Executions[executor.StartWarm].Count != 1 || s.Claims["none_kept"] != 0 {
		t.Errorf("%+v", s)
	}
	open, _ := inSession(t, e, "python")
	if s := e.Stats(); s.Sessions != 1 || s.Builds["session"].Count != 1 || s.Claims["none_kept"] != 1 {
		t.Errorf("with a session: %+v", s)
	}
	if err := e.CloseSession(t.Context(), open.ID); err != nil {
		t.Fatal(err)
	}
	if s := e.Stats(); s.Sessions != 0 {
		t.Errorf("%d sessions are open", s.Sessions)
	}
}
