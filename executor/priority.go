package executor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// A tenant for which slots are reserved is not to notice the others. What the
// engine's host has is shared by what happens at once, so such a tenant
//
//   - has a control group of its own, in which all of its sandboxes together
//     weigh as much as those of everybody else (cgroups(7), cpu.shares);
//   - has sandboxes parked that nobody else gets, in that group;
//   - waits for no turn: of the others, only as many sandboxes are started at
//     once, and as many removed, as the host has processors, less those that it
//     is starting itself, and one at the least. Starting more costs each of them
//     more than it gains.

// cgroupParent is where the sandboxes of a reserved tenant are, in the words of
// the engine's driver of control groups: a path for cgroupfs, a slice for
// systemd. Empty means the engine's own place, also where there is no driver.
func cgroupParent(driver, tenant string) string {
	sum := sha256.Sum256([]byte(tenant))
	name := hex.EncodeToString(sum[:6])
	switch driver {
	case "cgroupfs":
		return "/execgate/" + name
	case "systemd":
		return "execgate-" + name + ".slice"
	}
	return ""
}

// parentOf is the control group of what tenant runs.
func (e *Executor) parentOf(engine *engine, tenant string) string {
	if e.cfg.Reserved[tenant] == 0 {
		return ""
	}
	return cgroupParent(engine.cgroupDriver, tenant)
}

// turns bounds how much is done at once on an engine's host. A job that is first
// does not wait, and takes the place of others while it lasts; of the others,
// nobody is overtaken.
type turns struct {
	max int

	mu    sync.Mutex
	taken int // by others
	first int // jobs that did not wait
	queue []chan struct{}
}

func newTurns(max int) *turns { return &turns{max: max} }

// take waits for a turn, or for the end of ctx, and returns what ends the turn.
func (t *turns) take(ctx context.Context, first bool) (end func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first {
		t.first++
		return sync.OnceFunc(func() { t.give(&t.first) }), nil
	}
	end = sync.OnceFunc(func() { t.give(&t.taken) })
	if len(t.queue) == 0 && t.free() {
		t.taken++
		return end, nil
	}
	turn := make(chan struct{})
	t.queue = append(t.queue, turn)
	t.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	if err == nil {
		return end, nil
	}
	if at := slices.Index(t.queue, turn); at >= 0 {
		t.queue = slices.Delete(t.queue, at, at+1)
		return nil, err
	}
	return end, nil // it came all the same
}

// free reports whether one of those who wait may begin.
func (t *turns) free() bool { return t.taken < max(t.max-t.first, 1) }

func (t *turns) give(count *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*count--
	for len(t.queue) > 0 && t.free() {
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.taken++
	}
}

// reservedBuilders are how many sandboxes are built at once for one tenant.
const reservedBuilders = 2

// reservedWarm is what is kept parked for a tenant with so many slots: two for
// each and two more, since the next are wanted before the first are replaced.
func reservedWarm(w Warm, slots int) Warm {
	if len(w.Preload) == 0 && w.Target > 0 {
		w.Target = max(w.Target, 2*slots+2)
		w.Min, w.Max = w.Target, max(w.Max, 2*w.Target)
	}
	return w
}

// MostParked is how many sandboxes may be parked at once by a Config of these.
func MostParked(warm []Warm, reserved map[string]int) (most int) {
	for _, w := range warm {
		most += w.Max
		for _, slots := range reserved {
			most += reservedWarm(w, slots).Max
		}
	}
	return most
}

// shelvesFor are the shelves that one tenant has for itself, or where tenant is
// empty those of everybody.
func shelvesFor(tenant string, slots int, warm []Warm) (shelves []*shelf) {
	for _, w := range warm {
		if tenant != "" {
			w = reservedWarm(w, slots)
		}
		shelves = append(shelves, &shelf{Warm: w, tenant: tenant, shape: shapeOf(w.Limits), asked: time.Now()})
	}
	return shelves
}
