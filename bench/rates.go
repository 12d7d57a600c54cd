package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// rates has callers execute one after another, each on its own, for each number
// of callers way by way.
func rates(ctx context.Context, ways []way, callers []int, window time.Duration) ([]series, error) {
	var results []series
	for _, n := range callers {
		for _, w := range ways {
			r, err := w.rate(ctx, n, window)
			if err != nil {
				return nil, fmt.Errorf("%s, %d callers: %w", w.name, n, err)
			}
			results = append(results, r)
		}
	}
	summarize(results)
	return results, nil
}

// rate is a closed loop: each caller begins executions until the window is over,
// the next when the last has been answered. Time counts until all that they
// caused is done, so a sandbox that was parked before gains nothing.
func (w way) rate(ctx context.Context, callers int, window time.Duration) (series, error) {
	refused, err := w.ready(ctx, callers)
	if err != nil {
		return series{}, err
	}
	r := series{Way: w.name, Callers: callers, Refused: refused}
	var mu sync.Mutex
	before := spentSoFar()
	began := time.Now()
	err = atOnce(callers, func(caller int) error {
		for time.Since(began) < window && ctx.Err() == nil {
			e := w.execute(ctx, caller)
			mu.Lock()
			r.add(e)
			mu.Unlock()
		}
		return ctx.Err()
	})
	if err != nil {
		return series{}, err
	}
	end := time.Now()
	if w.settle != nil {
		settled, err := w.settle(ctx)
		if err != nil {
			return series{}, err
		}
		if settled.After(end) {
			end = settled
		}
	}
	r.Seconds = end.Sub(began).Seconds()
	r.CPUMS = spentSoFar().perExecution(before, len(r.RunsMS))
	return r, nil
}

// atOnce runs f for n callers at the same time and returns the first error there is.
func atOnce(n int, f func(caller int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for caller := range n {
		all.Go(func() { errs[caller] = f(caller) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
