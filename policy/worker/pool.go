package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Config is what a Pool is made from.
type Config struct {
	// Command is the program and its arguments: it answers each frame on its
	// standard input with one on its standard output, and ends when the input does.
	Command []string
	// Env is its whole environment, as "NAME=value".
	Env []string
	// Size is how many processes there are at most. One key has at most one less,
	// so that there is always one for others; at least two are needed.
	Size int
	// MaxQueued is how many jobs of one key may wait.
	MaxQueued int
}

// ErrBusy says that too many jobs of a key wait already.
var ErrBusy = errors.New("too many jobs wait for a worker")

var errClosed = errors.New("the workers have been closed")

// Pool hands out processes, which it starts when they are first needed. All its
// methods may be called concurrently.
type Pool struct {
	cfg Config

	mu      sync.Mutex
	idle    []*Process
	running int                    // jobs that have a process, or start one
	busy    map[string]int         // the same by key
	waiting map[string][]chan turn // by key, in their order; each is told once
	turns   []string               // keys that wait, the next one first
	closed  bool
	jobs    sync.WaitGroup
}

// turn is the answer to a job that waits.
type turn struct {
	process *Process // nil: it has to start one
	err     error    // why it has no turn
}

// New returns a Pool that has started nothing yet.
func New(cfg Config) (*Pool, error) {
	switch {
	case len(cfg.Command) == 0:
		return nil, errors.New("workers: there is no command")
	case cfg.Size < 2:
		return nil, fmt.Errorf("workers: there are %d, and at least 2 are needed so that one key cannot take them all", cfg.Size)
	case cfg.MaxQueued < 1:
		return nil, fmt.Errorf("workers: %d jobs may wait, and at least 1 must", cfg.MaxQueued)
	}
	return &Pool{cfg: cfg, busy: make(map[string]int), waiting: make(map[string][]chan turn)}, nil
}

// Do runs a job with a process of its own, in the order in which keys, and then
// the jobs of a key, came. It waits for a process until ctx ends; the job gets
// the same ctx. Its error is ErrBusy, ctx's, that of starting a process, or the
// job's.
func (p *Pool) Do(ctx context.Context, key string, job func(context.Context, *Process) error) error {
	process, err := p.enter(ctx, key)
	if err != nil {
		return err
	}
	defer func() { p.leave(key, process) }()
	if process == nil {
		if process, err = startProcess(p.cfg.Command, p.cfg.Env); err != nil {
			return err
		}
	}
	return job(ctx, process)
}

// enter waits for the turn of a job, and returns the process that it takes over, if
// it does.
func (p *Pool) enter(ctx context.Context, key string) (*Process, error) {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return nil, errClosed
	case len(p.waiting[key]) == 0 && p.free(key):
		defer p.mu.Unlock()
		return p.begin(key), nil
	case len(p.waiting[key]) >= p.cfg.MaxQueued:
		p.mu.Unlock()
		return nil, ErrBusy
	}
	told := make(chan turn, 1)
	if len(p.waiting[key]) == 0 {
		p.turns = append(p.turns, key)
	}
	p.waiting[key] = append(p.waiting[key], told)
	p.mu.Unlock()

	select {
	case t := <-told:
		return t.process, t.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	at := slices.Index(p.waiting[key], told)
	if at >= 0 {
		p.unwait(key, at)
	}
	p.mu.Unlock()
	if at < 0 { // it was told all the same
		if t := <-told; t.err == nil {
			p.leave(key, t.process)
		}
	}
	return nil, ctx.Err()
}

// free reports whether a job of the key may begin.
func (p *Pool) free(key string) bool {
	return p.running < p.cfg.Size && p.busy[key] < p.cfg.Size-1
}

// begin begins a job of the key. It returns the idle process that the job takes over, if
// there is one that which last worked for the key; nil: it starts a new one, because a
// key that has its processes killed has to take new ones before it takes those of others.
// It is decided with the turn: in between, another key would count the process for one
// that is idle and too many, and take it.
func (p *Pool) begin(key string) *Process {
	p.running++
	p.busy[key]++
	p.jobs.Add(1)
	at := slices.IndexFunc(p.idle, func(idle *Process) bool { return idle.lastKey == key })
	if at < 0 && len(p.idle) > 0 && len(p.idle)+p.running > p.cfg.Size {
		at = 0 // the one that has been idle for longest
	}
	if at < 0 {
		return nil
	}
	process := p.idle[at]
	p.idle = slices.Delete(p.idle, at, at+1)
	return process
}

// unwait takes a job out of those that wait.
func (p *Pool) unwait(key string, at int) {
	p.waiting[key] = slices.Delete(p.waiting[key], at, at+1)
	if len(p.waiting[key]) == 0 {
		delete(p.waiting, key)
		p.turns = slices.DeleteFunc(p.turns, func(k string) bool { return k == key })
	}
}

// leave takes the process of a job back, if it has one, and ends its turn, in one step
// for the reason of begin.
func (p *Pool) leave(key string, process *Process) {
	if process != nil && process.broken {
		process.end()
		process = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case process == nil:
	case p.closed:
		process.end()
	default:
		process.lastKey = key
		p.idle = append(p.idle, process)
	}
	p.finish(key)
}

// finish ends a job's turn, and gives it to the next key that may have it.
func (p *Pool) finish(key string) {
	p.running--
	if p.busy[key]--; p.busy[key] == 0 {
		delete(p.busy, key)
	}
	p.jobs.Done()
	for _, next := range slices.Clone(p.turns) {
		if p.closed || !p.free(next) {
			continue
		}
		told := p.waiting[next][0]
		p.unwait(next, 0)
		if len(p.waiting[next]) > 0 { // to the end of the line
			p.turns = append(slices.DeleteFunc(p.turns, func(k string) bool { return k == next }), next)
		}
		told <- turn{process: p.begin(next)}
	}
}

// Waiting is how many jobs wait for their turn.
func (p *Pool) Waiting() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, jobs := range p.waiting {
		n += len(jobs)
	}
	return n
}

// Close kills the processes that are idle, waits for the jobs that have one, and
// refuses all others.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	for _, key := range slices.Clone(p.turns) {
		for len(p.waiting[key]) > 0 {
			p.waiting[key][0] <- turn{err: errClosed}
			p.unwait(key, 0)
		}
	}
	p.mu.Unlock()
	for _, process := range idle {
		process.end()
	}
	p.jobs.Wait()
}
