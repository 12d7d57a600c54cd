package executor

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestHistogramIsCumulative(t *testing.T) {
	var d durations
	for _, took := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 6 * time.Millisecond, time.Second, time.Hour} {
		d.add(took)
	}
	h := d.histogram()
	if h.Count != 5 || h.Sum < 3601.011 || h.Sum > 3601.013 {
		t.Errorf("%d in %v s", h.Count, h.Sum)
	}
	for bound, want := range map[float64]uint64{.005: 2, .01: 3, .5: 3, 1: 4, 900: 4} {
		if h.Buckets[bound] != want {
			t.Errorf("%d took at most %v s, want %d", h.Buckets[bound], bound, want)
		}
	}
}

// Each miss has its reason, also the one at which a shelf takes on another shape.
func TestClaimsAreCountedByResult(t *testing.T) {
	limits := execution.Limits{PIDs: 32, TmpMiB: 8, MemoryMiB: 64}
	image := imageState{Image: Image{Name: "python"}}
	image.facts.ID = "sha256:1"
	e := &Executor{cfg: Config{Warm: []Warm{{Image: "python", Language: "python", Runtime: "runc", Limits: limits, Target: 1, Max: 1}}}}
	e.pool = newPool(e)
	claim := func(change func(*execution.Job)) {
		job := execution.Job{Language: "python", Grant: execution.Grant{Runtime: "runc", Limits: limits}}
		change(&job)
		if sb := e.pool.take(job, image, time.Now()); sb != nil {
			t.Error("a sandbox was had")
		}
	}
	claim(func(*execution.Job) {})
	claim(func(j *execution.Job) { j.Language = "javascript" })
	for range shapeChange {
		claim(func(j *execution.Job) { j.Grant.Limits.TmpMiB = 9 })
	}
	claim(func(j *execution.Job) { j.Grant.Limits.TmpMiB = 9 })
	other := &sandbox{}
	other.spec.Image.ID, other.spec.Deadline = "sha256:0", time.Now().Add(parkedDeadline)
	e.pool.shelves[0].parked = []*sandbox{other}
	claim(func(j *execution.Job) { j.Grant.Limits.TmpMiB = 9 })
	for result, want := range map[string]uint64{"warm": 0, "none_kept": 1, "shape": shapeChange, "empty": 2, "unfit": 1, "adjust_failed": 0} {
		if got := byName(claimResults[:], e.stats.claims[:])[result]; got != want {
			t.Errorf("claims with the result %s: %d, want %d", result, got, want)
		}
	}
}

// What the caller brought about is no failure of ours.
func TestFailedBuilds(t *testing.T) {
	var st stats
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	st.built(cancelled, buildPool, time.Now(), errors.New("lost"))
	st.built(t.Context(), buildPool, time.Now(), errNoMemory)
	st.built(t.Context(), buildSession, time.Now(), errors.New("lost"))
	st.built(t.Context(), buildSession, time.Now(), nil)
	if pool, session := st.failedBuilds[buildPool].Load(), st.failedBuilds[buildSession].Load(); pool != 0 || session != 1 {
		t.Errorf("%d and %d builds failed", pool, session)
	}
	if n := st.builds[buildSession].histogram().Count; n != 1 {
		t.Errorf("%d sandboxes were built", n)
	}
}

// Stats may be asked for while everything moves; -race holds it.
func TestStatsWhileCounting(t *testing.T) {
	e := &Executor{}
	e.pool, e.reused = newPool(e), newReused(e)
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 1000 {
				e.stats.claims[claimWarm].Add(1)
				e.stats.executed(time.Now(), execution.Result{Outcome: execution.OutcomeExited, Usage: execution.Usage{Warm: true}}, nil)
				e.stats.executed(time.Now(), execution.Result{}, errors.New("lost"))
			}
		})
		work.Go(func() {
			for range 100 {
				if h := e.Stats().Executions[StartWarm]; h.Count < h.Buckets[900] {
					t.Errorf("%+v", h)
				}
			}
		})
	}
	work.Wait()
	if s := e.Stats(); s.Claims["warm"] != 4000 || s.Executions[StartWarm].Count != 4000 || s.Executions[StartCold].Count != 0 {
		t.Errorf("%+v", s)
	}
}
