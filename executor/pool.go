package executor

import (
	"context"
	"maps"
	"runtime"
	"slices"
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
	e       *Executor
	fillers []*filler

	mu      sync.Mutex
	shelves []*shelf // those of all fillers
}

// filler builds what is missing on some shelves: on those of one tenant, or of
// everybody, so that none of the tenants waits for another's.
type filler struct {
	tenant   string
	shelves  []*shelf
	builders int // that many at once
	wake     chan struct{}
}

func newPool(e *Executor) *pool {
	p := &pool{e: e}
	for _, tenant := range append(slices.Sorted(maps.Keys(e.cfg.Reserved)), "") {
		f := &filler{tenant: tenant, shelves: shelvesFor(tenant, e.cfg.Reserved[tenant], e.cfg.Warm), builders: 1}
		if tenant != "" {
			f.builders = reservedBuilders
		}
		f.wake = make(chan struct{}, f.builders)
		p.fillers = append(p.fillers, f)
		p.shelves = append(p.shelves, f.shelves...)
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
	if p.e.cfg.Reserved[job.Owner.Tenant] > 0 {
		if own := p.choose(job.Owner.Tenant, job, image); own != nil {
			if sb := own.take(job, image, deadline, time.Now()); sb != nil {
				return p.e.stats.claimed(own, sb)
			}
		}
	}
	s := p.choose("", job, image)
	if s == nil {
		return p.e.stats.claimed(nil, nil)
	}
	return p.e.stats.claimed(s, s.take(job, image, deadline, time.Now()))
}

// choose returns the shelf of tenant that serves the job, if any. It prefers one
// that has preloaded what the program names.
func (p *pool) choose(tenant string, job execution.Job, image imageState) *shelf {
	var plain *shelf
	for _, s := range p.shelves {
		switch {
		case s.tenant != tenant:
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
	if s := p.choose("", job, image); s != nil {
		return s.Preload
	}
	return nil
}

// kick makes the pool look at itself soon.
func (p *pool) kick() {
	for _, f := range p.fillers {
		for range f.builders {
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	}
}

// run fills the shelves until ctx ends, and then empties them.
func (p *pool) run(ctx context.Context) {
	defer p.empty()
	var fillers sync.WaitGroup
	for _, f := range p.fillers {
		if len(f.shelves) > 0 {
			for range f.builders {
				fillers.Go(func() { p.keepFull(ctx, f) })
			}
		}
	}
	fillers.Wait()
}

func (p *pool) keepFull(ctx context.Context, f *filler) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-wait.C:
		}
		next := poolInterval
		if err := p.fill(ctx, f); err != nil && ctx.Err() == nil {
			p.e.cfg.Logger.Warn("sandboxes cannot be parked, executions start cold", "error", err)
			next = poolPause
		}
		wait.Reset(next)
	}
}

// fill removes what is of no use any more and builds what is missing, one after
// another. What is kept for everybody gives way to executions that need the
// processors.
func (p *pool) fill(ctx context.Context, f *filler) error {
	images, err := p.e.images(ctx)
	if err != nil {
		return err
	}
	for _, s := range f.shelves {
		image, ok := images[s.Image]
		for _, old := range p.stale(s, image) {
			p.e.discard(old)
		}
		for ok && (f.tenant != "" || !p.givesWay()) && ctx.Err() == nil {
			next, wanted := p.next(s)
			if !wanted {
				break
			}
			began := time.Now()
			sb, err := p.e.park(ctx, f.tenant, next, image)
			p.e.stats.built(ctx, buildPool, began, err)
			p.put(s, sb, err)
			if err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// givesWay reports whether executions keep every processor busy.
func (p *pool) givesWay() bool { return int(p.e.busy.Load()) >= runtime.NumCPU() }

// next returns what to build for s, if one more is wanted. Whoever got it says by
// put what came of it.
func (p *pool) next(s *shelf) (w Warm, wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(s.parked)+s.coming >= s.wanted(time.Now()) {
		return Warm{}, false
	}
	s.coming++
	return s.built(), true
}

func (p *pool) put(s *shelf, sb *sandbox, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.coming--
	if err == nil {
		s.parked = append(s.parked, sb)
	}
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
