package executor

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// Stats is what an Executor holds now, and what it has done since it was made.
type Stats struct {
	Shelves []ShelfStats
	// Claims counts by result how often a parked sandbox was asked for, by
	// executions and by sessions. Each of the results is there.
	Claims map[string]uint64
	// Builds says by use how long sandboxes took that came up; for the pool, until
	// their driver waited too. FailedBuilds counts those that did not, though they
	// were not cancelled and their memory was not too small.
	Builds       map[string]Histogram
	FailedBuilds map[string]uint64
	// Discards counts by reason sandboxes that were up and of no use any more
	// before a program ran in them.
	Discards map[string]uint64

	ReusedBusy, ReusedIdle int    // sandboxes that are reused, with a job and without
	Reuses                 uint64 // jobs that got one which had run another
	FailedCleanings        uint64 // after which one is not reused

	Sessions   int                  // open
	Executions map[string]Histogram // by StartWarm and StartCold; in each, those that have a result
}

// ShelfStats is one shelf of parked sandboxes.
type ShelfStats struct {
	Image, Language, Runtime string
	Preload                  bool // with modules imported
	Parked, Wanted           int
}

// How an execution starts: StartWarm is execution.Usage's Warm.
const (
	StartWarm = "warm"
	StartCold = "cold"
)

// Results of a claim.
const (
	claimWarm   = iota // a parked sandbox was had
	claimNone          // none are kept for that image, language and runtime
	claimShape         // those that are kept have limits that cannot be adjusted
	claimEmpty         // all were taken
	claimUnfit         // those that were left have another image, or too little time
	claimAdjust        // the limits of the one that was had could not be adjusted
)

var claimResults = [...]string{
	claimWarm: "warm", claimNone: "none_kept", claimShape: "shape", claimEmpty: "empty", claimUnfit: "unfit", claimAdjust: "adjust_failed",
}

// What a sandbox is built for.
const (
	buildPool = iota
	buildExecution
	buildReuse
	buildSession
)

var buildUses = [...]string{buildPool: "pool", buildExecution: "execution", buildReuse: "reuse", buildSession: "session"}

// Why a sandbox is discarded unused.
const (
	discardDied = iota
	discardImage
	discardShape
	discardStale
	discardSurplus
	discardAdjust
	discardRenewed
)

var discardReasons = [...]string{
	discardDied: "died", discardImage: "image_changed", discardShape: "shape_changed", discardStale: "stale",
	discardSurplus: "surplus", discardAdjust: "adjust_failed", discardRenewed: "renewed",
}

// stats are the counters behind Stats. What can be counted by looking is not
// counted here.
type stats struct {
	claims          [len(claimResults)]atomic.Uint64
	builds          [len(buildUses)]durations
	failedBuilds    [len(buildUses)]atomic.Uint64
	discards        [len(discardReasons)]atomic.Uint64
	reuses          atomic.Uint64
	failedCleanings atomic.Uint64
	warm, cold      durations
}

// claimed counts what came of looking for a sandbox on s, which is nil where no
// shelf serves the job. The pool's lock is held.
func (st *stats) claimed(s *shelf, sb *sandbox) *sandbox {
	switch {
	case sb != nil: // counted when it is found to be of use
	case s == nil:
		st.claims[claimNone].Add(1)
	case s.others > 0:
		st.claims[claimShape].Add(1)
	case len(s.parked) > 0:
		st.claims[claimUnfit].Add(1)
	default:
		st.claims[claimEmpty].Add(1)
	}
	return sb
}

// removed counts why each of old has just been removed from s. The pool's lock
// is held.
func (st *stats) removed(s *shelf, old []*sandbox, image imageState, now time.Time) []*sandbox {
	for _, sb := range old {
		reason := discardSurplus
		switch {
		case !sb.alive():
			reason = discardDied
		case sb.spec.Image.ID != image.facts.ID:
			reason = discardImage
		case shapeOf(sb.spec.Grant.Limits) != s.shape:
			reason = discardShape
		case sb.spec.Deadline.Sub(now) < parkedDeadline-parkedAge:
			reason = discardStale
		}
		st.discards[reason].Add(1)
	}
	return old
}

// built counts a sandbox whose building began then, and failed with err if that
// is not nil.
func (st *stats) built(ctx context.Context, use int, began time.Time, err error) {
	switch {
	case err == nil:
		st.builds[use].add(time.Since(began))
	case ctx.Err() == nil && !errors.Is(err, errNoMemory):
		st.failedBuilds[use].Add(1)
	}
}

// executed counts an execution that began then, if it has a result.
func (st *stats) executed(began time.Time, r execution.Result, err error) {
	switch {
	case err != nil:
	case r.Usage.Warm:
		st.warm.add(time.Since(began))
	default:
		st.cold.add(time.Since(began))
	}
}

// Stats returns the counts as they are now. Those of one call need not fit
// together to the last one: work goes on meanwhile.
func (e *Executor) Stats() Stats {
	st := &e.stats
	s := Stats{
		Claims:       byName(claimResults[:], st.claims[:]),
		Builds:       map[string]Histogram{},
		FailedBuilds: byName(buildUses[:], st.failedBuilds[:]),
		Discards:     byName(discardReasons[:], st.discards[:]),
		Reuses:       st.reuses.Load(), FailedCleanings: st.failedCleanings.Load(),
		Sessions:   e.sessions.count(),
		Executions: map[string]Histogram{StartWarm: st.warm.histogram(), StartCold: st.cold.histogram()},
	}
	for i, use := range buildUses {
		s.Builds[use] = st.builds[i].histogram()
	}
	s.ReusedBusy, s.ReusedIdle = e.reused.counts()
	s.Shelves = e.pool.stats(time.Now()) // last: what was discarded by then is on no shelf
	return s
}

func byName(names []string, counts []atomic.Uint64) map[string]uint64 {
	m := make(map[string]uint64, len(names))
	for i, name := range names {
		m[name] = counts[i].Load()
	}
	return m
}

func (p *pool) stats(now time.Time) (list []ShelfStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shelves {
		list = append(list, ShelfStats{
			Image: s.Image, Language: s.Language, Runtime: s.Runtime, Preload: len(s.Preload) > 0,
			Parked: len(s.parked), Wanted: s.wanted(now),
		})
	}
	return list
}

func (r *reused) counts() (busy, idle int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count - len(r.shelf), len(r.shelf)
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}
