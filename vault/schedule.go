package vault

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// atOnce is how much of the schedule is done at once.
const atOnce = 8

// schedule does things at their time, each once. It does nothing before run.
type schedule struct {
	mu    sync.Mutex
	items queue
	wake  chan struct{} // has room for one: the first item may have changed
}

// item is one thing to do.
type item struct {
	when  time.Time
	do    func(context.Context)
	place int // in the queue; -1: it is not there any more
}

func newSchedule() *schedule { return &schedule{wake: make(chan struct{}, 1)} }

// at has do done at when, or as soon after as can be.
func (s *schedule) at(when time.Time, do func(context.Context)) *item {
	it := &item{when: when, do: do}
	s.mu.Lock()
	heap.Push(&s.items, it)
	first := it.place == 0
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return it
}

// drop has the item not done, if it is not being done already.
func (s *schedule) drop(it *item) {
	if it == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.place >= 0 {
		heap.Remove(&s.items, it.place)
	}
}

// next takes the first item that is due, or says how long it is until one is.
func (s *schedule) next() (*item, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) == 0 {
		return nil, time.Hour
	}
	if wait := time.Until(s.items[0].when); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&s.items).(*item), 0
}

// run does what is due until ctx ends, and waits for what it began.
func (s *schedule) run(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	defer group.Wait() // nothing in it fails
	for ctx.Err() == nil {
		it, wait := s.next()
		if it != nil {
			group.Go(func() error { it.do(ctx); return nil })
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// queue is a heap of items by their time.
type queue []*item

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].when.Before(q[j].when) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	it := x.(*item)
	it.place = len(*q)
	*q = append(*q, it)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	it.place = -1
	return it
}
