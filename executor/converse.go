package executor

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// conversation is one program in one sandbox, seen from the gateway.
type conversation struct {
	e      *Executor
	sb     *sandbox
	job    execution.Job
	how    execution.Start
	output *output
	feed   *feed
	// carrying is what the program sends out; nil where it has no network.
	carrying *carrying

	began time.Time // when the job was sent
	phase phase
	// stopWanted says that the program of a session is to be stopped once it runs.
	stopWanted bool
	ending     ending
	value      []byte
	artifacts  []execution.Artifact

	before     spent         // by the sandbox, before the job was sent
	measured   chan struct{} // closed when the engine has said, or not, what was used; nil before it is asked
	engineCPU  time.Duration
	enginePeak int64 // bytes
}

// converse sends the job, keeps its deadlines, and turns what comes back into
// a Result. Its Session says, of any sandbox, what is left of it: the sandbox
// may be spoken with again unless that is SessionEnded.
func (e *Executor) converse(ctx context.Context, sb *sandbox, job execution.Job, image imageState, how execution.Start) (execution.Result, error) {
	feed := newFeed(job.Events)
	c := &conversation{e: e, sb: sb, job: job, how: how, began: time.Now(), feed: feed, output: newOutput(job.Grant.Limits.OutputKiB<<10, feed)}
	c.before, _ = readGroup(hostGroups, sb.spec.Parent, sb.id)
	defer feed.close()

	// What is written to the sandbox may wait for a hostile reader, so writing
	// is never waited for: only frames, clocks and the caller are. A side that
	// fails ends the session, which the other notices.
	inbox := newInbox(job.Grant.Limits)
	go func() {
		if err := inbox.read(sb.frames); err != nil {
			sb.session.Close()
		}
	}()
	start, err := c.start(image)
	if err != nil {
		sb.session.Close()
		inbox.close()
		return execution.Result{Session: execution.SessionEnded}, err
	}
	if start.Network != nil {
		c.carrying = e.beginCarrying(sb, job, *start.Network)
	}
	streams := sb.streams
	sb.streams = nil
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := c.send(streams, start); err != nil {
			sb.session.Close()
		}
	}()
	err = c.follow(ctx, inbox)
	state := c.left()
	if c.output.stuck { // the agent has not closed them
		state = execution.SessionEnded
	}
	if state == execution.SessionEnded || sb.keep == "" {
		sb.session.Close()
	}
	inbox.close()
	if c.carrying != nil && !e.endCarrying(sb, c.carrying) {
		state = execution.SessionEnded
	}
	if !within(drainTimeout, sent) { // the next program's files and start come after this one's
		sb.session.Close()
		state = execution.SessionEnded
	}
	if err != nil {
		result, err := cancelledOr(ctx, err)
		result.Session = execution.SessionEnded
		return result, err
	}
	for i := range c.artifacts {
		feed.tell(execution.Event{Type: execution.EventArtifact, Artifact: &c.artifacts[i]})
	}
	result := c.result()
	result.Session = state
	return result, nil
}

// within reports whether done is closed in time.
func within(limit time.Duration, done <-chan struct{}) bool {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// left is what is left of the sandbox by the agent's last word; without one it
// is lost.
func (c *conversation) left() execution.SessionState {
	switch x := c.ending.exited; {
	case x == nil || c.phase == dead:
		return execution.SessionEnded
	case x.Stayed || !c.sb.stays:
		return execution.SessionKept
	}
	return execution.SessionReset
}

// send sends the program's files, the program, and its standard input.
func (c *conversation) send(streams *streams, start wire.Start) error {
	if streams == nil {
		if err := c.sb.openStreams(); err != nil {
			return err
		}
		streams, c.sb.streams = c.sb.streams, nil
	}
	go c.output.copy(&c.output.stdout, streams.stdout)
	go c.output.copy(&c.output.stderr, streams.stderr)
	if err := c.sb.tellAuthority(); err != nil {
		return err
	}
	for _, file := range c.job.Files {
		if err := wire.WriteFile(c.sb.control, wire.FrameFile, file.Path, int64(len(file.Content)), bytes.NewReader(file.Content)); err != nil {
			return err
		}
	}
	input := func() {
		io.WriteString(streams.stdin, c.job.Stdin) // a program need not read its input
		streams.stdin.Close()
	}
	if len(c.job.Stdin) > earlyInput {
		defer input()
	} else {
		input()
	}
	return wire.WriteJSON(c.sb.control, wire.FrameStart, start)
}

// earlyInput is how much standard input goes ahead of the start and so with it:
// well below what a stream takes that nobody reads.
const earlyInput = 64 << 10
