package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

const (
	// reusedIdle is how long a sandbox waits for its owner's next job.
	reusedIdle = time.Minute
	// reusedAge is the longest that one is used, and reusedRounds the most jobs.
	reusedAge    = parkedAge
	reusedRounds = 1000
	// cleanTimeout bounds the agent's cleaning between two jobs: a sandbox that is
	// given up for want of a processor costs a machine that has none to spare another.
	cleanTimeout = 10 * time.Second
	// maxCleaned bounds what the agent says about it, in bytes.
	maxCleaned = 16 << 10
)

// reuseKey is all that two jobs must have in common to run in one sandbox.
type reuseKey struct {
	owner                    execution.Owner
	image, runtime, language string
	preload                  string
	shape                    shape
	memory, cpu, shares      int64
	optional                 string
	// network and credentials are compared as JSON: what is equal is so in the same
	// order, since a policy says it in one.
	network, credentials string
}

// reused are the sandboxes that run one owner's jobs, one after another, each as
// a user of its own, and are cleaned in between.
type reused struct {
	e        *Executor
	patience time.Duration // with an agent that cleans

	mu    sync.Mutex
	count int // all there are, also those in use
	shelf []*cleaning
}

// cleaning is a sandbox that no job uses, from the end of its last one.
type cleaning struct {
	sb    *sandbox
	since time.Time
	done  chan struct{} // closed when it is clean, or lost
}

func newReused(e *Executor) *reused { return &reused{e: e, patience: cleanTimeout} }

// run discards what nobody came back for, until ctx ends, and then the rest.
func (r *reused) run(ctx context.Context) {
	tick := time.NewTicker(reusedIdle / 10)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.discard(func(c *cleaning) bool { return !c.sb.alive() || time.Since(c.since) > reusedIdle })
		case <-ctx.Done():
			r.discard(func(*cleaning) bool { return true })
			return
		}
	}
}

func (r *reused) discard(old func(*cleaning) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shelf = slices.DeleteFunc(r.shelf, func(c *cleaning) bool {
		gone := old(c)
		if gone {
			r.count--
			r.e.discard(c.sb)
		}
		return gone
	})
}

// keyOf is what a sandbox must have been made with to serve the job.
func (r *reused) keyOf(job execution.Job, image imageState) reuseKey {
	l := job.Grant.Limits
	network, _ := json.Marshal(job.Grant.Network) // of nothing that cannot be marshalled
	credentials, _ := json.Marshal(job.Grant.Credentials)
	return reuseKey{
		owner: job.Owner, image: image.facts.ID, runtime: job.Grant.Runtime, language: job.Language,
		preload: strings.Join(r.e.pool.preload(job, image), " "),
		shape:   shapeOf(l), memory: l.MemoryMiB, cpu: l.CPUMillis, shares: l.CPUShares,
		optional: strings.Join(slices.Sorted(slices.Values(job.Grant.OptionalControls)), " "),
		network:  string(network), credentials: string(credentials),
	}
}

// claim takes a sandbox that has run for the job's owner under an equal grant,
// and waits for it to be clean. It returns nil where there is none.
func (r *reused) claim(ctx context.Context, job execution.Job, image imageState) *sandbox {
	if job.Grant.Reuse != execution.ReusePrincipal {
		return nil
	}
	key, deadline := r.keyOf(job, image), r.e.deadline(job)
	for {
		c := r.take(func(sb *sandbox) bool { return sb.reuse == key && deadline.Before(sb.spec.Deadline) })
		if c == nil {
			return nil
		}
		<-c.done // bounded by cleanTimeout, and that of parking a driver
		if c.sb.alive() && ctx.Err() == nil {
			r.e.stats.reuses.Add(1)
			return c.sb
		}
		r.lose(c.sb)
	}
}

// take takes the first off the shelf that fits: it has been there for longest.
func (r *reused) take(fits func(*sandbox) bool) *cleaning {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.shelf, func(c *cleaning) bool { return fits(c.sb) })
	if i < 0 {
		return nil
	}
	c := r.shelf[i]
	r.shelf = slices.Delete(r.shelf, i, i+1)
	return c
}

// reserve reports whether the job gets a new sandbox that will be reused, which
// must then be opened. Where there are as many as may be, one that waits for
// somebody else gives way.
func (r *reused) reserve(job execution.Job) bool {
	if job.Grant.Reuse != execution.ReusePrincipal {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count >= r.e.cfg.ReusedMax {
		if len(r.shelf) == 0 {
			return false
		}
		r.e.discard(r.shelf[0].sb)
		r.shelf = r.shelf[1:]
		r.count--
	}
	r.count++
	return true
}

// lose gives up a sandbox that is not on the shelf.
func (r *reused) lose(sb *sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
	r.e.discard(sb)
}

// open makes the sandbox that was reserved, with a driver parked in it.
func (r *reused) open(ctx context.Context, engine *engine, s spec, job execution.Job, image imageState) (*sandbox, error) {
	s.Profile, s.Deadline = reusable, time.Now().Add(parkedDeadline)
	began := time.Now()
	sb, err := r.e.open(ctx, engine, s)
	r.e.stats.built(ctx, buildReuse, began, err)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.count--
		return nil, err
	}
	language := image.Languages[job.Language]
	sb.keep, sb.forks, sb.reuse, sb.made = wire.KeepReuse, language.Fork, r.keyOf(job, image), time.Now()
	if len(job.Grant.Network.Rules) > 0 {
		err = r.e.certify(sb)
	}
	if err == nil && language.Session && !language.Text {
		sb.driver = &parkable{language, r.e.pool.preload(job, image)}
		err = r.e.parkDriver(ctx, sb, *sb.driver)
	}
	if err != nil {
		r.lose(sb)
		return nil, err
	}
	return sb, nil
}

// putBack puts a sandbox whose job has ended where the owner's next job finds
// it, if it is clean by then.
func (r *reused) putBack(sb *sandbox) {
	if sb.round >= reusedRounds || time.Since(sb.made) > reusedAge || !r.e.underWay.begin() {
		r.lose(sb)
		return
	}
	c := &cleaning{sb: sb, since: time.Now(), done: make(chan struct{})}
	r.mu.Lock()
	r.shelf = append(r.shelf, c)
	r.mu.Unlock()
	go func() {
		defer r.e.underWay.end()
		defer close(c.done)
		if err := r.clean(sb); err != nil {
			r.e.stats.failedCleanings.Add(1)
			r.e.cfg.Logger.Info("a sandbox is not reused", "container", sb.id, "error", err)
			sb.session.Close() // whoever finds it next discards it
		}
	}()
}

// clean waits until the agent has cleaned the sandbox, and parks a driver in it
// that does not come back by itself.
func (r *reused) clean(sb *sandbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	frame, err := sb.next(ctx, map[wire.FrameType]int{wire.FrameCleaned: maxCleaned})
	if err != nil {
		return err
	}
	var cleaned wire.Cleaned
	if err := frame.Decode(&cleaned); err != nil {
		return err
	}
	if err := checkCleaned(cleaned); err != nil {
		return err
	}
	if sb.driver == nil || sb.forks {
		return nil
	}
	return r.e.parkDriver(context.Background(), sb, *sb.driver) // as long as any other
}

// checkCleaned refuses what was not checked, and what was left.
func checkCleaned(c wire.Cleaned) error {
	for _, name := range wire.Checks {
		left, made := c.Checks[name]
		switch {
		case !made:
			return fmt.Errorf("the agent did not check its %s", name)
		case left != "":
			return fmt.Errorf("the program left %s: %.500q", name, left)
		}
	}
	return nil
}
