package executor

import (
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestShelfFollowsDemand(t *testing.T) {
	now := time.Now()
	s := &shelf{Warm: Warm{Min: 1, Target: 2, Max: 4}, asked: now}
	claims := func(at time.Time, n int) {
		for range n {
			s.take(execution.Job{}, imageState{}, at, at)
		}
	}
	for _, step := range []struct {
		what   string
		claims int
		after  time.Duration
		want   int
	}{
		{"at the start", 0, 0, 2},
		{"after a claim that found none", 1, time.Second, 3},
		{"after many", 5, time.Second, 4},
		{"a minute later", 0, demandAge + time.Second, 2},
		{"long after the last claim", 0, idleAge, 1},
		{"after another claim", 1, time.Second, 3},
	} {
		now = now.Add(step.after)
		claims(now, step.claims)
		if got := s.wanted(now); got != step.want {
			t.Errorf("%s: %d are wanted, not %d", step.what, got, step.want)
		}
	}
}
