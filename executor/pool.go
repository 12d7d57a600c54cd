package executor

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// poolInterval is how often the pool looks at itself without being told to.
const poolInterval = time.Second

// poolPause is how long building waits after a failure: an engine in trouble
// needs its strength for work that somebody waits for.
const poolPause = 5 * time.Second

// pool keeps sandboxes parked. Each is used once, by one execution, and removed.
type pool struct {
	e    *Executor
	wake chan struct{}

	mu      sync.Mutex
	shelves []*shelf
}

func newPool(e *Executor) *pool {
	p := &pool{e: e, wake: make(chan struct{}, 1)}
	for _, warm := range e.cfg.Warm {
		p.shelves = append(p.shelves, &shelf{Warm: warm, shape: shapeOf(warm.Limits), asked: time.Now()})
	}
	return p
}

// claim takes a parked sandbox that is just what the job was granted and may be
// had until the deadline, and adjusts its limits where they differ. It returns
// nil where there is none, and the job starts cold.
func (p *pool) claim(ctx context.Context, job execution.Job, image imageState, deadline time.Time) *sandbox {
	for {
		sb := p.take(job, image, deadline)
		if sb == nil {
			p.kick()
			return nil
		}
		time.AfterFunc(settleDelay, p.kick)
		if !sb.alive() {
			p.e.stats.discards[discardDied].Add(1)
			p.e.discard(sb)
			continue
		}
		if err := p.e.adjust(ctx, sb, job.Grant.Limits); err != nil {
			// Such as memory below what is used by now. Its like would fail too.
			p.e.cfg.Logger.Debug("parked sandbox cannot be adjusted", "container", sb.id, "error", err)
			p.e.stats.claims[claimAdjust].Add(1)
			p.e.stats.discards[discardAdjust].Add(1)
			p.e.discard(sb)
			return nil
		}
		p.e.stats.claims[claimWarm].Add(1)
		p.e.cfg.Logger.Debug("parked sandbox claimed", "execution_id", job.ID, "container", sb.id)
		return sb
	}
}

func (p *pool) take(job execution.Job, image imageState, deadline time.Time) *sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.choose(job, image)
	if s == nil {
		return p.e.stats.claimed(nil, nil)
	}
	return p.e.stats.claimed(s, s.take(job, image, deadline, time.Now()))
}

// choose prefers a shelf that has preloaded what the program names.
func (p *pool) choose(job execution.Job, image imageState) *shelf {
	var plain *shelf
	for _, s := range p.shelves {
		switch {
		case s.Image != image.Name || s.Language != job.Language || s.Runtime != job.Grant.Runtime:
		case len(s.Preload) == 0:
			plain = s
		case s.names(job.Code):
			return s
		}
	}
	return plain
}

// preload are the modules that a program's driver imports ahead of it, if any.
func (p *pool) preload(job execution.Job, image imageState) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.choose(job, image); s != nil {
		return s.Preload
	}
	return nil
}

// kick makes the pool look at itself soon.
func (p *pool) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run fills the shelves until ctx ends, and then empties them.
func (p *pool) run(ctx context.Context) {
	defer p.empty()
	if len(p.shelves) == 0 {
		return
	}
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-wait.C:
		}
		next := poolInterval
		if err := p.fill(ctx); err != nil && ctx.Err() == nil {
			p.e.cfg.Logger.Warn("sandboxes cannot be parked, executions start cold", "error", err)
			next = poolPause
		}
		wait.Reset(next)
	}
}

// fill removes what is of no use any more and builds what is missing, one after
// another, giving way to executions that need the processors.
func (p *pool) fill(ctx context.Context) error {
	images, err := p.e.images(ctx)
	if err != nil {
		return err
	}
	for _, s := range p.shelves {
		image, ok := images[s.Image]
		for _, old := range p.stale(s, image) {
			p.e.discard(old)
		}
		for ok && p.wants(s) && !p.givesWay() && ctx.Err() == nil {
			began := time.Now()
			sb, err := p.e.park(ctx, s.built(), image)
			p.e.stats.built(ctx, buildPool, began, err)
			if err != nil {
				return err
			}
			p.put(s, sb)
		}
	}
	return ctx.Err()
}

// givesWay reports whether executions keep every processor busy.
func (p *pool) givesWay() bool { return int(p.e.busy.Load()) >= runtime.NumCPU() }

func (p *pool) wants(s *shelf) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(s.parked) < s.wanted(time.Now())
}

func (p *pool) put(s *shelf, sb *sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.parked = append(s.parked, sb)
}

func (p *pool) stale(s *shelf, image imageState) []*sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	return p.e.stats.removed(s, s.stale(image, now), image, now)
}

func (p *pool) empty() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shelves {
		for _, sb := range s.parked {
			p.e.stats.discards[discardRenewed].Add(1)
			p.e.discard(sb)
		}
		s.parked = nil
	}
}

// Renew replaces every parked sandbox: what they were made for has changed.
func (e *Executor) Renew() {
	e.pool.empty()
	e.pool.kick()
}

// Parked returns how many sandboxes wait for a job.
func (e *Executor) Parked() int {
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	n := 0
	for _, s := range e.pool.shelves {
		n += len(s.parked)
	}
	return n
}
