package main

import (
	"context"
	"fmt"
	"time"
)

// turns runs the ways in turns, one execution at a time, after a round that does
// not count.
func turns(ctx context.Context, ways []way, rounds int) ([]series, error) {
	results := make([]series, len(ways))
	for w, way := range ways {
		results[w].Way, results[w].Callers = way.name, 1
		var err error
		if results[w].Refused, err = way.ready(ctx, 1); err != nil {
			return nil, fmt.Errorf("%s: %w", way.name, err)
		}
	}
	for round := range rounds + 1 {
		for w, way := range ways {
			took, err := way.turn(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			if round > 0 {
				results[w].RunsMS = append(results[w].RunsMS, took...)
			}
		}
	}
	summarize(results)
	return results, nil
}

// turn is what the way does in one round: how long each execution took, in ms.
func (w way) turn(ctx context.Context) ([]float64, error) {
	var took []float64
	for range w.perRound {
		e := w.execute(ctx, 0)
		switch {
		case e.err != nil:
			return nil, e.err
		case w.start == cold && e.warm, w.start == warm && !e.warm:
			return nil, fmt.Errorf("warm is %t", e.warm)
		}
		took = append(took, e.ms)
		if w.settle != nil {
			if _, err := w.settle(ctx); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

// executed is one execution.
type executed struct {
	ms   float64
	warm bool
	err  error // also where it printed something else
}

func (w way) execute(ctx context.Context, caller int) executed {
	began := time.Now()
	got, err := w.run(ctx, caller)
	e := executed{ms: milliseconds(time.Since(began)), warm: got.warm, err: err}
	if err == nil && got.stdout != want {
		e.err = fmt.Errorf("printed %q, want %q", got.stdout, want)
	}
	return e
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
