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
	running int                     // jobs that have a process
	busy    map[string]int          // the same by key
	waiting map[string][]chan error // by key, in their order; each is told once: nil, or why not
	turn    []string                // keys that wait, the next one first
	closed  bool
	jobs    sync.WaitGroup
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
	return &Pool{cfg: cfg, busy: make(map[string]int), waiting: make(map[string][]chan error)}, nil
}

// Do runs a job with a process of its own, in the order in which keys, and then
// the jobs of a key, came. It waits for a process until ctx ends; the job gets
// the same ctx. Its error is ErrBusy, ctx's, that of starting a process, or the
// job's.
func (p *Pool) Do(ctx context.Context, key string, job func(context.Context, *Process) error) error {
	if err := p.enter(ctx, key); err != nil {
		return err
	}
	defer p.leave(key)
	process, err := p.take(key)
	if err != nil {
		return err
	}
	err = job(ctx, process)
	p.put(key, process)
	return err
}

// enter waits for the turn of a job.
func (p *Pool) enter(ctx context.Context, key string) error {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return errClosed
	case len(p.waiting[key]) == 0 && p.free(key):
		p.begin(key)
		p.mu.Unlock()
		return nil
	case len(p.waiting[key]) >= p.cfg.MaxQueued:
		p.mu.Unlock()
		return ErrBusy
	}
	turn := make(chan error, 1)
	if len(p.waiting[key]) == 0 {
		p.turn = append(p.turn, key)
	}
	p.waiting[key] = append(p.waiting[key], turn)
	p.mu.Unlock()

	select {
	case err := <-turn:
		return err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.waiting[key], turn)
	if at < 0 { // it was told all the same
		if <-turn == nil {
			p.finish(key)
		}
		return ctx.Err()
	}
	p.unwait(key, at)
	return ctx.Err()
}

// free reports whether a job of the key may begin.
func (p *Pool) free(key string) bool {
	return p.running < p.cfg.Size && p.busy[key] < p.cfg.Size-1
}

func (p *Pool) begin(key string) {
	p.running++
	p.busy[key]++
	p.jobs.Add(1)
}

// unwait takes a job out of those that wait.
func (p *Pool) unwait(key string, at int) {
	p.waiting[key] = slices.Delete(p.waiting[key], at, at+1)
	if len(p.waiting[key]) == 0 {
		delete(p.waiting, key)
		p.turn = slices.DeleteFunc(p.turn, func(k string) bool { return k == key })
	}
}

func (p *Pool) leave(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish(key)
}

// finish ends a job's turn, and gives it to the next key that may have it.
func (p *Pool) finish(key string) {
	p.running--
	if p.busy[key]--; p.busy[key] == 0 {
		delete(p.busy, key)
	}
	p.jobs.Done()
	for _, next := range slices.Clone(p.turn) {
		if p.closed || !p.free(next) {
			continue
		}
		turn := p.waiting[next][0]
		p.unwait(next, 0)
		if len(p.waiting[next]) > 0 { // to the end of the line
			p.turn = append(slices.DeleteFunc(p.turn, func(k string) bool { return k == next }), next)
		}
		p.begin(next)
		turn <- nil
	}
}

// take is an idle process, if there is one that which last worked for the key,
// or a new one: a key that has its processes killed has to take new ones before
// it takes those of others.
func (p *Pool) take(key string) (*Process, error) {
	p.mu.Lock()
	at := slices.IndexFunc(p.idle, func(idle *Process) bool { return idle.lastKey == key })
	if at < 0 && len(p.idle) > 0 && len(p.idle)+p.running > p.cfg.Size {
		at = 0 // the one that has been idle for longest
	}
	if at >= 0 {
		process := p.idle[at]
		p.idle = slices.Delete(p.idle, at, at+1)
		p.mu.Unlock()
		return process, nil
	}
	p.mu.Unlock()
	return startProcess(p.cfg.Command, p.cfg.Env)
}

// put takes a process back.
func (p *Pool) put(key string, process *Process) {
	p.mu.Lock()
	if process.broken || p.closed {
		p.mu.Unlock()
		process.end()
		return
	}
	process.lastKey = key
	p.idle = append(p.idle, process)
	p.mu.Unlock()
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
	for _, key := range slices.Clone(p.turn) {
		for len(p.waiting[key]) > 0 {
			p.waiting[key][0] <- errClosed
			p.unwait(key, 0)
		}
	}
	p.mu.Unlock()
	for _, process := range idle {
		process.end()
	}
	p.jobs.Wait()
}
