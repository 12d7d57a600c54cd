package executor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// conversation is one program in one sandbox, seen from the gateway.
type conversation struct {
	e      *Executor
	sb     *sandbox
	job    execution.Job
	output *output
	feed   *feed

	began     time.Time // when the job was sent
	phase     phase
	ending    ending
	value     []byte
	artifacts []execution.Artifact

	measured   chan struct{} // closed when the engine has said, or not, what was used; nil before it is asked
	engineCPU  time.Duration
	enginePeak int64 // bytes
}

// converse sends the job, keeps its deadlines, and turns what comes back into
// a Result.
func (e *Executor) converse(ctx context.Context, sb *sandbox, job execution.Job, image imageState) (execution.Result, error) {
	feed := newFeed(job.Events)
	c := &conversation{e: e, sb: sb, job: job, began: time.Now(), feed: feed, output: newOutput(job.Grant.Limits.OutputKiB<<10, feed)}
	defer sb.session.Close()
	defer feed.close()

	// What is written to the sandbox may wait for a hostile reader, so writing
	// is never waited for: only frames, clocks and the caller are. A side that
	// fails ends the session, which the other notices.
	inbox := newInbox(job.Grant.Limits)
	defer inbox.close()
	go func() {
		if err := inbox.read(sb.control); err != nil {
			sb.session.Close()
		}
	}()
	go func() {
		if err := c.send(image); err != nil {
			sb.session.Close()
		}
	}()
	if err := c.follow(ctx, inbox); err != nil {
		return cancelledOr(ctx, err)
	}
	for i := range c.artifacts {
		feed.tell(execution.Event{Type: execution.EventArtifact, Artifact: &c.artifacts[i]})
	}
	return c.result(), nil
}

// send sends the program's files, the program, and its standard input.
func (c *conversation) send(image imageState) error {
	if c.sb.streams == nil {
		if err := c.sb.openStreams(); err != nil {
			return err
		}
	}
	go c.output.copy(&c.output.stdout, c.sb.streams.stdout)
	go c.output.copy(&c.output.stderr, c.sb.streams.stderr)
	for _, file := range c.job.Files {
		if err := wire.WriteFile(c.sb.control, wire.FrameFile, file.Path, int64(len(file.Content)), bytes.NewReader(file.Content)); err != nil {
			return err
		}
	}
	start, err := c.start(image)
	if err != nil {
		return err
	}
	if err := wire.WriteJSON(c.sb.control, wire.FrameStart, start); err != nil {
		return err
	}
	stdin := c.sb.streams.stdin
	if _, err := io.WriteString(stdin, c.job.Stdin); err != nil {
		return nil // a program need not read its input
	}
	stdin.Close()
	return nil
}

// start is the job in the agent's words.
func (c *conversation) start(image imageState) (wire.Start, error) {
	job, l := c.job, c.job.Grant.Limits
	own := map[string]string{}
	maps.Copy(own, job.Env)
	own["EXECGATE_EXECUTION"], own["EXECGATE_RESULT"] = job.ID, wire.ResultPath

	start := wire.Start{ResultBytes: l.ResultKiB << 10, FilesBytes: l.FilesMiB << 20, FilesCount: l.FilesCount}
	argv := job.Command
	if job.Language != "" {
		language := image.Languages[job.Language]
		argv = language.Command
		text, err := jobText(language, job, own)
		if err != nil {
			return start, err
		}
		start.Job = &text
	}
	if !c.sb.parked {
		start.Process = &wire.Process{Argv: argv, Env: environment(own), PIDs: l.PIDs}
	}
	return start, nil
}

// jobText is what the driver reads; a driver that takes the code as it is finds
// the input among the program's own variables.
func jobText(language Language, job execution.Job, own map[string]string) (string, error) {
	if language.Text {
		own["INPUT_DATA"] = cmp.Or(string(job.Input), "null")
		return job.Code, nil
	}
	text, err := json.Marshal(wire.Driver{Code: job.Code, Input: job.Input, Env: own, Result: wire.ResultPath})
	if err != nil {
		return "", fmt.Errorf("encode the job: %w", err)
	}
	return string(text), nil
}

// environment is the whole environment of a program, with its own variables.
func environment(own map[string]string) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": wire.Workspace, "LANG": "C.UTF-8", "TMPDIR": "/tmp", "USER": "sandbox",
		"EXECGATE_RESULT": wire.ResultPath,
	}
	maps.Copy(env, own)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}
