package main

import (
	"context"
	"regexp"
	"sync/atomic"
	"time"
)

// answer is what one execution gave.
type answer struct {
	stdout string
	warm   bool // the sandbox was up before
}

// way is one way of running a program.
type way struct {
	name string
	// run makes one execution as one of the callers, who are counted from 0.
	run func(ctx context.Context, caller int) (answer, error)
	// prepare gets ready, untimed, for as many callers; nil where there is nothing.
	prepare func(ctx context.Context, callers int) error
	// settle waits until executions have left nothing to do, neither a removal nor
	// the next parked sandbox, and returns since when; nil where run itself does.
	settle func(context.Context) (time.Time, error)
	// perRound is how many executions there are in a round of turns: more of what
	// is short.
	perRound int
	// start is what the sandbox of an undisturbed caller must have been.
	start start
	// fresh says that each execution has a container of its own.
	fresh bool
}

// start is how an execution finds its sandbox.
type start int

const (
	either start = iota
	cold
	warm
)

// The engine's own way is what others are compared with.
const engineWay = "engine API"

func waysOf(e *engine, g *gateways) []way {
	return []way{
		{name: engineWay, run: e.run, perRound: 1, fresh: true},
		{name: "docker run --rm", run: e.dockerRun, perRound: 1, fresh: true},
		{name: "execgate, cold", run: g.cold.executes(code), settle: g.cold.settled, perRound: 1, start: cold, fresh: true},
		{name: "execgate, warm", run: g.pooled.executes(code), settle: g.pooled.settled, perRound: 3, start: warm, fresh: true},
		{name: "execgate, warm, pandas", run: g.pooled.executes(pandasCode), settle: g.pooled.settled, perRound: 1, start: warm, fresh: true},
		{name: "execgate, session", run: g.kept.executesInSession(code), prepare: g.kept.openSessions, perRound: 5},
		{name: "execgate, session, pandas", run: g.kept.executesInSession(pandasCode), prepare: g.kept.openSessions, perRound: 5},
		{name: "execgate, reused", run: g.kept.executes(code), perRound: 5, start: warm},
		{name: "execgate, reused, pandas", run: g.kept.executes(pandasCode), perRound: 5, start: warm},
	}
}

func matching(ways []way, name *regexp.Regexp) []way {
	var found []way
	for _, w := range ways {
		if name.MatchString(w.name) {
			found = append(found, w)
		}
	}
	return found
}

// attempts is how often callers that find no sandbox yet try to get one.
const attempts = 3

// ready prepares, runs each caller once at the same time, so that sandboxes are
// up that stay, and settles. It returns how many executions failed in that: as
// many starts at once may be more than a small machine manages. It is no error
// if some still find none: then the executions that count fail, and are counted.
func (w way) ready(ctx context.Context, callers int) (refused int, err error) {
	if w.prepare != nil {
		if err := w.prepare(ctx, callers); err != nil {
			return 0, err
		}
	}
	if !w.fresh {
		refused = w.first(ctx, callers)
	}
	if w.settle != nil {
		_, err = w.settle(ctx)
	}
	return refused, err
}

// first has each caller execute once, again if one of them could not.
func (w way) first(ctx context.Context, callers int) (refused int) {
	for range attempts {
		var failed atomic.Int32
		err := atOnce(callers, func(caller int) error {
			e := w.execute(ctx, caller)
			if e.err != nil {
				failed.Add(1)
			}
			return e.err
		})
		refused += int(failed.Load())
		if err == nil {
			break
		}
	}
	return refused
}
