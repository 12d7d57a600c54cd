package executor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// Executor runs jobs in sandboxes of one engine.
type Executor struct {
	cfg      Config
	engines  *engines
	uids     uids
	running  running
	pool     *pool
	reused   *reused
	sessions sessions
	stats    stats
	busy     atomic.Int32 // executions under way
	underWay underWay
	leftover chan struct{} // tells the reaper not to wait
}

// New validates cfg and starts nothing. The engine need not answer yet.
func New(cfg Config) (*Executor, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	engines, err := newEngines(cfg)
	if err != nil {
		return nil, err
	}
	e := &Executor{cfg: cfg, engines: engines, uids: uids{UIDRange: cfg.UIDs}, leftover: make(chan struct{}, 1)}
	e.uids.n.Store(rand.Uint32()) // two gateways seldom meet on a user
	e.pool = newPool(e)
	e.reused = newReused(e)
	return e, nil
}

// Run reaps what an earlier life of this gateway left, and then what anyone
// left past its deadline, until ctx ends. From then on Execute refuses; Run
// returns when those executions that are under way have ended, by their limits
// or their own contexts, and every sandbox has been removed that the engine lets
// be removed. Its error is always nil.
func (e *Executor) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { e.pool.run(ctx) })
	beside.Go(func() { e.reused.run(ctx) })
	beside.Go(func() { e.keepImages(ctx) })
	e.reapUntil(ctx)
	beside.Wait()
	e.sessions.empty(e)
	e.underWay.stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := e.Reap(last); err != nil {
		e.cfg.Logger.Error("sandboxes may be left, the next start will remove them", "error", err)
	}
	return nil
}

// Ready reports whether a job could be run now: nil, or what is missing.
func (e *Executor) Ready(ctx context.Context) error {
	engine, err := e.engines.get(ctx)
	if err != nil {
		return err
	}
	if err := e.engines.ping(ctx); err != nil {
		e.engines.forget(engine)
		return unavailable(err)
	}
	found, err := engine.images.current(ctx, imagesMaxAge)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("the engine has none of %d images", len(e.cfg.Images))
	}
	return nil
}

// Execute runs one job: in a sandbox of its own, or in that of its session, or,
// where the grant allows it, in one that ran a job of the same owner before.
// Whatever the program does is a Result; an error means that the engine or the gateway failed, and that the program's
// effects, if it was started, are unknown. Errors are of KindUnavailable where
// the same job may succeed later. When ctx is cancelled the sandbox is killed
// and the outcome is cancelled; in a session the program is interrupted first.
// When Execute returns, every call of Config.Egress for the job has returned, or
// was waited for in vain. Job.ID is unique among those under way. Execute may be called by many at once,
// though a session takes one job at a time (session.go has its errors).
func (e *Executor) Execute(ctx context.Context, job execution.Job) (result execution.Result, err error) {
	if !e.underWay.begin() {
		return execution.Result{}, unavailable(errors.New("the gateway is stopping"))
	}
	defer e.underWay.end()
	if err := errors.Join(checkGrant(job.Grant), e.checkNetwork(job.Grant), checkExposed(job.Exposed)); err != nil {
		return execution.Result{}, fmt.Errorf("grant cannot be carried out: %w", err)
	}
	e.busy.Add(1)
	defer e.busy.Add(-1)
	began := time.Now()
	defer func() { e.stats.executed(began, result, err) }()
	if job.Session != "" {
		return e.executeInSession(ctx, job)
	}
	engine, err := e.engines.get(ctx)
	if err != nil {
		return cancelledOr(ctx, err)
	}
	image, err := engine.images.byDigest(ctx, job.Grant.Image)
	if err != nil {
		return cancelledOr(ctx, err)
	}
	for {
		sb, start, err := e.sandboxFor(ctx, engine, job, image)
		warm := start != execution.StartCold
		if errors.Is(err, errNoMemory) {
			return execution.Result{
				Outcome: execution.OutcomeOutOfMemory, Usage: execution.Usage{LimitsHit: []string{"memory_mib"}},
			}, nil
		}
		if err != nil {
			if ctx.Err() == nil {
				e.engines.doubt(ctx, engine, err)
			}
			return cancelledOr(ctx, err)
		}
		result, err := e.use(ctx, engine, sb, job, image, start)
		if warm && errors.Is(err, errNotBegun) && ctx.Err() == nil {
			e.stats.discards[discardDied].Add(1)
			continue // it died between the claim and the program's start: nothing was run
		}
		result.Usage.Warm = warm && err == nil
		return result, err
	}
}

// sandboxFor takes a sandbox that is up, or makes one (StartCold): where the grant
// allows it, one that the owner's next job can have.
func (e *Executor) sandboxFor(ctx context.Context, engine *engine, job execution.Job, image imageState) (sb *sandbox, start execution.Start, err error) {
	s := spec{
		Gateway: e.cfg.Gateway, Execution: job.ID, Deadline: e.deadline(job), Grant: job.Grant,
		Profile: sealed, Parent: e.parentOf(engine, job.Owner.Tenant), Image: image.facts, Engine: engine.facts,
	}
	if sb := e.reused.claim(ctx, job, image); sb != nil {
		return sb, execution.StartReuse, nil
	}
	if e.reused.reserve(job) {
		sb, err = e.reused.open(ctx, engine, s, job, image)
		return sb, execution.StartCold, err
	}
	if sb := e.pool.claim(ctx, job, image, s.Deadline); sb != nil {
		return sb, execution.StartWarm, nil
	}
	began := time.Now()
	sb, err = e.open(ctx, engine, s)
	e.stats.built(ctx, buildExecution, began, err)
	return sb, execution.StartCold, err
}

// use runs the job in a sandbox, which is then discarded, or cleaned for another
// job of the same owner.
func (e *Executor) use(ctx context.Context, engine *engine, sb *sandbox, job execution.Job, image imageState, start execution.Start) (result execution.Result, err error) {
	left := execution.SessionEnded // also where it panics
	defer func() {
		switch {
		case left == execution.SessionEnded && sb.keep == wire.KeepReuse:
			e.reused.lose(sb)
		case left == execution.SessionEnded:
			e.discard(sb)
		case sb.keep == wire.KeepReuse:
			e.reused.putBack(sb)
		default:
			e.retire(sb)
		}
	}()
	result, err = e.converse(ctx, sb, job, image, start)
	if err != nil {
		e.engines.doubt(context.WithoutCancel(ctx), engine, err)
	}
	left, result.Session = result.Session, ""
	return result, err
}

// deadline is when anyone may take the container for abandoned.
func (e *Executor) deadline(job execution.Job) time.Time {
	return time.Now().Add(e.cfg.StartTimeout + milliseconds(job.Grant.Limits.TimeoutMS) + e.cfg.StopGrace + 2*cleanupTimeout)
}

func cancelledOr(ctx context.Context, err error) (execution.Result, error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil
	}
	return execution.Result{}, err
}

// later runs cleanup in the background with a context of its own. Only what is
// called by Execute may call it.
func (e *Executor) later(cleanup func(context.Context)) {
	e.underWay.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		cleanup(ctx)
	})
}

// uids hands out users in turn, so that one is not used again soon.
type uids struct {
	UIDRange
	n atomic.Uint32
}

func (u *uids) next() int { return u.First + int(u.n.Add(1)%uint32(u.Count)) }

// underWay counts executions and their cleanup in the background.
type underWay struct {
	sync.WaitGroup
	mu      sync.Mutex
	stopped bool
}

// begin reports whether one more execution may begin. Each that does must end.
func (u *underWay) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.stopped {
		u.Add(1)
	}
	return !u.stopped
}

func (u *underWay) end() { u.Done() }

// stop lets none begin any more and waits for those that did.
func (u *underWay) stop() {
	u.mu.Lock()
	u.stopped = true
	u.mu.Unlock()
	u.Wait()
}

// running are the executions that hold a container, and the sandboxes that wait
// for one, by what the container's label says, and how many each holds: one whose
// container is still being removed may have begun another under its id.
type running struct {
	mu  sync.Mutex
	ids map[string]int
}

func (r *running) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[string]int{}
	}
	r.ids[id]++
}

func (r *running) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.ids[id]; n > 1 {
		r.ids[id] = n - 1
	} else {
		delete(r.ids, id)
	}
}

func (r *running) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id] > 0
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
