package executor

import (
	"context"
	"fmt"
	"mime"
	"path"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

const (
	// lastWords is how long an agent that was told to kill its program has to
	// report its counters before the engine kills the sandbox; in a session,
	// whose files would be lost with it, a little longer.
	lastWords        = 150 * time.Millisecond
	lastWordsSession = 400 * time.Millisecond
	// drainTimeout bounds reading what a dead sandbox left in the stream, and
	// waiting for an engine that does not kill.
	drainTimeout = 2 * time.Second
)

// phase is how far a program has come. Each has a clock, and none waits for the
// agent past it.
type phase int

const (
	starting phase = iota // until the agent says that the program runs
	going                 // until the program's timeout
	stopping              // was asked to stop, until the grace is over
	dying                 // was killed through the agent, until its last words are due
	dead                  // was killed through the engine, until the stream is drained
)

// follow keeps the clocks until the program has ended or its sandbox is lost.
// An error means that the program did not start, or that the engine is gone.
func (c *conversation) follow(ctx context.Context, in *inbox) error {
	clock := time.NewTimer(c.e.cfg.StartTimeout)
	defer clock.Stop()
	defer c.output.wait(drainTimeout, ctx.Done())
	defer c.cut()
	cancelled, unheard, exceeded := ctx.Done(), c.feed.failed, c.output.exceeded
	for {
		select {
		case frame := <-in.frames:
			if frame.Type == wire.FrameStarted {
				c.ending.began = time.Now()
				c.enter(going, clock, milliseconds(c.job.Grant.Limits.TimeoutMS))
				if c.job.Started != nil {
					c.job.Started(c.how)
				}
				c.feed.begin()
				if c.stopWanted {
					c.stop(clock)
				}
			}
			if ended := c.take(frame); ended {
				return nil
			}
		case err := <-in.lost:
			return c.explain(ctx, err)
		case <-cancelled:
			cancelled = nil
			c.cancel(clock)
		case <-unheard:
			unheard = nil
			c.cancel(clock)
		case <-exceeded:
			exceeded = nil
			c.ending.outputExceeded = true
			c.stop(clock)
		case <-clock.C:
			if c.phase == starting {
				return unavailable(fmt.Errorf("%w within %s", errNotBegun, c.e.cfg.StartTimeout))
			}
			c.tick(clock)
		}
	}
}

// cancel ends the program because nobody wants its result any more.
func (c *conversation) cancel(clock *time.Timer) {
	c.ending.cancelled = true
	if c.phase == starting && c.sb.keep != wire.KeepSession {
		c.kill(clock) // files may be on their way, where a signal has no place
	} else {
		c.stop(clock)
	}
}

// stop ends the program: at once, or in a session by an interrupt first, after
// which the interpreter's state is still there.
func (c *conversation) stop(clock *time.Timer) {
	if c.sb.keep != wire.KeepSession {
		c.strike(clock)
		return
	}
	switch c.phase {
	case starting:
		c.stopWanted = true // there is nothing yet that a signal would reach
	case going:
		c.signal(unix.SIGINT)
		c.enter(stopping, clock, c.e.cfg.StopGrace)
	}
}

// enter goes to the next phase, never back.
func (c *conversation) enter(next phase, clock *time.Timer, length time.Duration) {
	if next > c.phase {
		c.phase = next
		clock.Reset(length)
	}
}

// tick does what is due when a phase's clock has run out.
func (c *conversation) tick(clock *time.Timer) {
	switch c.phase {
	case going:
		c.ending.timedOut = true
		polite := unix.SIGTERM
		if c.sb.keep == wire.KeepSession {
			polite = unix.SIGINT
		}
		c.signal(polite)
		c.enter(stopping, clock, c.e.cfg.StopGrace)
	case stopping:
		c.strike(clock)
	case dying:
		c.kill(clock)
	case dead:
		c.sb.session.Close()
	}
}

// signal asks the agent to signal the program. It may never arrive; kill is
// what is relied on.
func (c *conversation) signal(n unix.Signal) {
	go wire.Write(c.sb.control, wire.FrameSignal, wire.SignalPayload(byte(n), c.sb.round))
}

// strike kills the program through the agent, which then still tells how it
// ended, and sees to it that what was used is known if the agent does not.
func (c *conversation) strike(clock *time.Timer) {
	c.cut()
	c.signal(unix.SIGKILL)
	c.measure()
	if c.sb.keep == wire.KeepSession {
		c.enter(dying, clock, lastWordsSession)
	} else {
		c.enter(dying, clock, lastWords)
	}
}

// kill ends the sandbox through the engine. The stream then ends by itself.
func (c *conversation) kill(clock *time.Timer) {
	c.cut()
	c.measure()
	c.enter(dead, clock, drainTimeout)
	c.e.later(func(ctx context.Context) {
		c.sb.cli.ContainerKill(ctx, c.sb.id, "SIGKILL") // discard removes what this cannot end
	})
}

// cut ends what the program sends out, and lets it send no more.
func (c *conversation) cut() {
	if c.carrying != nil {
		c.carrying.cancel()
	}
}

// take keeps what a frame brings and reports whether it was the last.
func (c *conversation) take(frame wire.Frame) (ended bool) {
	switch frame.Type {
	case wire.FrameResult:
		c.value = frame.Payload
	case wire.FrameArtifact:
		c.keep(frame)
	case wire.FrameExited:
		var exited wire.Exited
		if frame.Decode(&exited) == nil && plausible(exited) {
			c.ending.exited = &exited
		}
		return true
	}
	return false
}

// keep remembers an artifact. Its path comes from a hostile folder, so one that
// is not plainly relative is dropped.
func (c *conversation) keep(frame wire.Frame) {
	name, content, err := frame.File()
	if err != nil || !filepath.IsLocal(name) || name != path.Clean(name) {
		return
	}
	mediaType := mime.TypeByExtension(path.Ext(name))
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	c.artifacts = append(c.artifacts, execution.Artifact{
		Path: name, MediaType: mediaType, Size: int64(len(content)), Content: content,
	})
}

// explain finds out why a sandbox went away. Past the gateway's own kill there
// is nothing to find out.
func (c *conversation) explain(ctx context.Context, cause error) error {
	if c.phase >= dying {
		return nil
	}
	// What the program has done is worth more than an engine that is slow with the reason.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	found, err := c.sb.ended(ctx)
	if err != nil {
		return lost(fmt.Errorf("the sandbox was lost and the engine does not say why: %w", err))
	}
	c.ending.oomKilled = found.State.OOMKilled
	if c.phase == starting && !c.ending.oomKilled {
		return unavailable(fmt.Errorf("%w: the sandbox was lost (the agent said %q): %w", errNotBegun, c.sb.words, cause))
	}
	return nil
}

// endedTimeout is how long the engine may take to notice the end of a sandbox
// whose stream is broken, which on a busy machine is not at once.
const endedTimeout = 3 * time.Second

// ended inspects a sandbox once it has ended, since the engine does not say
// before that it ran out of memory; one that lives on is inspected as it is.
func (sb *sandbox) ended(ctx context.Context) (container.InspectResponse, error) {
	found, err := sb.cli.ContainerInspect(ctx, sb.id)
	if err != nil || !found.State.Running {
		return found, err
	}
	waiting, cancel := context.WithTimeout(ctx, endedTimeout)
	defer cancel()
	stopped, failed := sb.cli.ContainerWait(waiting, sb.id, container.WaitConditionNotRunning)
	select {
	case <-stopped:
	case <-failed:
	}
	return sb.cli.ContainerInspect(ctx, sb.id)
}
