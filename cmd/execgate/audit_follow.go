package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/execgate/execgate/execution"
)

// The pace of asking a log that is followed. An answer that does not come in time is
// as one that broke off: of a connection that is dead without a word nothing else tells
// before a quarter of an hour has passed.
const (
	tailInterval = time.Second
	tailSlowest  = 30 * time.Second // after failures
	tailAnswer   = time.Minute
)

// follower shows what comes to a log.
type follower struct {
	from   recordSource
	filter execution.RecordFilter
	show   func([]execution.Record) error
	tell   io.Writer // is told once of each time that the gateway cannot be asked
}

// run shows what comes, until ctx ends. What does not last it waits for: the source is
// then asked for the same again, and what was not shown is still to come.
func (f follower) run(ctx context.Context) error {
	pause := time.Duration(0) // zero: the last time it answered
	for {
		page, err := f.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // that is how it ends
		case err != nil && !passes(err):
			return err
		case err != nil:
			if pause == 0 {
				fmt.Fprintf(f.tell, "execgate: %s; it is asked again until it answers\n", inText(err.Error()))
			}
			pause = min(max(2*pause, tailInterval), tailSlowest)
		default:
			pause = 0
			if err := f.show(page.Records); err != nil {
				return err
			}
			if _, resting := f.from.(restingLog); resting {
				f.filter.From = page.Next
			}
			if page.More {
				continue
			}
		}
		select {
		case <-time.After(max(pause, tailInterval)):
		case <-ctx.Done():
			return nil
		}
	}
}

// ask asks for what comes next.
func (f follower) ask(ctx context.Context) (execution.RecordPage, error) {
	asking, stop := context.WithTimeout(ctx, tailAnswer)
	defer stop()
	page, err := f.from.page(asking, execution.RecordQuery{Filter: f.filter, Oldest: true, Most: 200})
	if _, running := f.from.(*runningLog); running && err != nil && asking.Err() != nil && ctx.Err() == nil {
		return page, coded{exitUnavailable, fmt.Errorf("the gateway did not answer within %v", tailAnswer)}
	}
	return page, err
}

// passes reports whether what err says may be over when the same is asked again: the
// gateway is not there, or has too much to do.
func passes(err error) bool {
	c, ok := errors.AsType[coded](err)
	return ok && (c.code == exitUnavailable || c.code == exitBusy)
}
