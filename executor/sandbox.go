package executor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/execgate/execgate/executor/wire"
)

// cleanupTimeout bounds what must happen though the caller is gone.
const cleanupTimeout = 10 * time.Second

// maxHello bounds the agent's first frame, in bytes.
const maxHello = 256 << 10

// errNotStarted is in the error of a sandbox that the engine does not start, or
// whose agent does not come up; errNoMemory in that of one whose memory limit
// does not even hold the agent; errNotBegun in that of one that came up and was
// lost before the program began.
var (
	errNotStarted = errors.New("sandbox did not start")
	errNoMemory   = errors.New("out of memory before the program started")
	errNotBegun   = errors.New("the program did not begin")
)

// sandbox is a container that is up, verified, and ready for a program.
type sandbox struct {
	cli     *client.Client
	id      string
	turns   *turns // of removals
	session *wire.Session
	control net.Conn
	frames  *wire.Reader // of control
	streams *streams     // of the next program; nil until they are opened
	words   *words       // what the agent itself wrote to stderr
	spec    spec         // what it was built from, and adjusted to

	parked bool      // its driver waits for a job
	keep   wire.Keep // what becomes of it when its program has ended
	stays  bool      // its driver takes further jobs
	forks  bool      // its driver forks for each job
	round  uint32    // programs that it was given

	authority     *tls.Certificate // that programs trust; nil until one needs it
	authorityTold bool             // to the agent

	outbound *outbound // nil until a program has a network

	// Of one that is reused.
	reuse  reuseKey
	made   time.Time
	driver *parkable // is parked in it; nil where none is
}

// streams are those of the program.
type streams struct{ stdin, stdout, stderr net.Conn }

// openStreams opens the program's streams. It may wait for a side that reads
// nothing, until the session ends.
func (sb *sandbox) openStreams() error {
	var s streams
	for kind, conn := range map[wire.Kind]*net.Conn{wire.KindStdin: &s.stdin, wire.KindStdout: &s.stdout, wire.KindStderr: &s.stderr} {
		opened, err := sb.session.Open(kind)
		if err != nil {
			return err
		}
		*conn = opened
	}
	sb.streams = &s
	return nil
}

// maxNameTries bounds the search for a free user.
const maxNameTries = 256

// create makes a container under a user of its own. The container's name holds
// the user's id, and names are unique on an engine, so no two sandboxes of any
// gateway share a user.
func (e *Executor) create(ctx context.Context, engine *engine, s spec) (string, spec, error) {
	for range maxNameTries {
		s.UID = e.uids.next()
		built, err := s.build()
		if err != nil {
			return "", s, fmt.Errorf("grant cannot be carried out: %w", err)
		}
		name := fmt.Sprintf("execgate-%d", s.UID)
		created, err := engine.cli.ContainerCreate(ctx, built.Config, built.Host, nil, nil, name)
		if errdefs.IsConflict(err) {
			continue
		}
		if err != nil {
			// The engine may have created it all the same.
			e.later(func(ctx context.Context) {
				if err := removeOurs(ctx, engine.cli, name, s); err != nil {
					e.cfg.Logger.Debug("what may have been created is not removed, the reaper will look for it", "error", err)
				}
				// An engine that hung creates it only now, and had nothing to be removed yet.
				e.hasLeft()
			})
			return "", s, unavailable(fmt.Errorf("create sandbox: %w", err))
		}
		return created.ID, s, nil
	}
	return "", s, unavailable(fmt.Errorf("every one of %d users is taken by a sandbox", e.cfg.UIDs.Count))
}

// open creates, starts and verifies a sandbox. The caller must discard it.
func (e *Executor) open(ctx context.Context, engine *engine, s spec) (*sandbox, error) {
	came := time.Now()
	waiting, stopWaiting := context.WithTimeout(ctx, e.cfg.StartTimeout)
	defer stopWaiting()
	endTurn, err := engine.starts.take(waiting, s.Parent != "")
	if err != nil {
		return nil, unavailable(fmt.Errorf("wait for the starts of other sandboxes: %w", err))
	}
	defer endTurn()
	s.Deadline = s.Deadline.Add(time.Since(came))
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StartTimeout)
	defer cancel()
	e.running.add(s.Execution)
	id, s, err := e.create(ctx, engine, s)
	if err != nil {
		e.running.remove(s.Execution)
		return nil, err
	}
	sb := &sandbox{cli: engine.cli, id: id, turns: engine.removals, spec: s, words: &words{}}
	if err := sb.start(ctx, s); err != nil {
		e.discard(sb)
		return nil, err
	}
	return sb, nil
}

func (sb *sandbox) start(ctx context.Context, s spec) error {
	attached, err := attach(ctx, sb.cli, sb.id)
	if err != nil {
		return unavailable(fmt.Errorf("attach to sandbox: %w", err))
	}
	sb.session, err = wire.Dial(newAttachment(attached, sb.words))
	if err != nil {
		return unavailable(err)
	}
	// What is written now waits in the pipe until the agent reads.
	if err := sb.openControl(ctx); err != nil {
		return unavailable(err)
	}
	if err := sb.cli.ContainerStart(ctx, sb.id, container.StartOptions{}); err != nil {
		return sb.unstarted(ctx, err)
	}
	var inspected container.InspectResponse
	inspection := make(chan error, 1)
	go func() {
		var err error
		inspected, err = sb.cli.ContainerInspect(ctx, sb.id)
		inspection <- err
	}()
	hello, helloErr := sb.hello(ctx)
	if err := <-inspection; err != nil {
		return unavailable(fmt.Errorf("inspect sandbox: %w", err))
	}
	if helloErr != nil {
		return sb.unstarted(ctx, fmt.Errorf("the agent did not come up (it said %q): %w", sb.words, helloErr))
	}
	return verify(s, inspected, hello)
}

// unstarted finds out whether a sandbox that did not start had too little
// memory for that, which is the grant's doing and not the engine's.
func (sb *sandbox) unstarted(ctx context.Context, cause error) error {
	// The runtime's words where its own first step is killed in the container.
	if strings.Contains(cause.Error(), "OOM-killed") {
		return errNoMemory
	}
	if found, err := sb.cli.ContainerInspect(ctx, sb.id); err == nil && found.State.OOMKilled {
		return errNoMemory
	}
	return unavailable(fmt.Errorf("%w: %w", errNotStarted, cause))
}

// openControl opens the control stream, waiting no longer than ctx for a side
// that reads nothing.
func (sb *sandbox) openControl(ctx context.Context) (err error) {
	stop := context.AfterFunc(ctx, func() { sb.session.Close() })
	defer stop()
	if sb.control, err = sb.session.Open(wire.KindControl); err == nil {
		sb.frames = wire.NewReader(sb.control)
	}
	return err
}

// hello waits for the agent's first word.
func (sb *sandbox) hello(ctx context.Context) (wire.Hello, error) {
	var hello wire.Hello
	frame, err := sb.next(ctx, map[wire.FrameType]int{wire.FrameHello: maxHello})
	if err != nil {
		return hello, err
	}
	return hello, frame.Decode(&hello)
}

// next waits for the agent's next word, which may be one of those given. Where
// ctx ends before it comes, the sandbox is lost.
func (sb *sandbox) next(ctx context.Context, may map[wire.FrameType]int) (wire.Frame, error) {
	stop := context.AfterFunc(ctx, func() { sb.session.Close() })
	defer stop()
	frame, err := sb.frames.Next(may)
	if err != nil {
		return frame, errors.Join(err, ctx.Err())
	}
	return frame, nil
}

// alive reports whether the sandbox can still be spoken with. Its stream ends
// with the container, and the agent ends with a driver that dies while parked.
func (sb *sandbox) alive() bool {
	select {
	case <-sb.session.Done():
		return false
	default:
		return true
	}
}

// settleDelay is how long the removal of a sandbox whose program has ended, and
// the making of the next parked one, wait: they would take the processors from
// the answer to whom it ran for.
const settleDelay = 20 * time.Millisecond

// retire discards a sandbox in which nothing runs any more, a little later.
func (e *Executor) retire(sb *sandbox) {
	sb.session.Close()
	e.underWay.Add(1)
	time.AfterFunc(settleDelay, func() {
		defer e.underWay.Done()
		e.discard(sb)
	})
}

// discard removes a sandbox in the background; Run waits for it.
func (e *Executor) discard(sb *sandbox) {
	if sb.session != nil {
		sb.session.Close()
	}
	e.later(func(ctx context.Context) {
		// Where the turn does not come, the engine is slow, and asked all the same.
		if endTurn, err := sb.turns.take(ctx, sb.spec.Parent != ""); err == nil {
			defer endTurn()
		}
		err := removeContainer(ctx, sb.cli, sb.id)
		e.running.remove(sb.spec.Execution)
		if err != nil {
			e.cfg.Logger.Error("sandbox is not removed, the reaper will try again", "container", sb.id, "error", err)
			e.hasLeft()
		}
	})
}

// removeContainer kills and removes a container with its anonymous volumes. It
// is no error if it is gone already, or going.
func removeContainer(ctx context.Context, cli *client.Client, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || errdefs.IsNotFound(err) || strings.Contains(err.Error(), "is already in progress") {
		return nil
	}
	return fmt.Errorf("remove container: %w", err)
}

// removeOurs removes the container called name if it belongs to this execution.
func removeOurs(ctx context.Context, cli *client.Client, name string, s spec) error {
	found, err := cli.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for container: %w", err)
	}
	if found.Config.Labels[labelGateway] != s.Gateway || found.Config.Labels[labelExecution] != s.Execution {
		return nil
	}
	return removeContainer(ctx, cli, found.ID)
}
