package executor

import "testing"

// A container that is being removed does not let the reaper take the next one of
// the same execution.
func TestRunningCountsContainers(t *testing.T) {
	var r running
	for i, step := range []struct {
		do   func(string)
		want bool
	}{{r.add, true}, {r.add, true}, {r.remove, true}, {r.remove, false}, {r.remove, false}, {r.add, true}} {
		if step.do("ex_1"); r.has("ex_1") != step.want || r.has("ex_2") {
			t.Errorf("step %d: it runs: %t", i, r.has("ex_1"))
		}
	}
}
