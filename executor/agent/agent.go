//go:build linux

// Package agent is the program that is process 1 inside every sandbox. It
// speaks with the gateway over its standard input and output, starts one
// program at a time, carries the program's streams, and reports how it ended.
//
// In the profile "sealed" it has no capability and shares its user with the
// program, which is hostile: the agent makes itself unreadable, ignores every
// signal that can be ignored, and keeps no secret. Where the program still
// brings it down, the gateway decides the outcome from outside. In the profile
// "reusable" it is root with four capabilities, each program is a user of its
// own, and between two programs the sandbox is cleaned (clean.go).
package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/execgate/execgate/executor/wire"
)

// Frames that the gateway may send. The gateway is trusted, so these bounds
// only keep a fault from exhausting memory.
var fromGateway = map[wire.FrameType]int{
	wire.FrameFile:   64 << 20,
	wire.FrameStart:  64 << 20,
	wire.FramePark:   1 << 20,
	wire.FrameSignal: 5,
	wire.FrameSync:   0,
	wire.FrameFetch:  1 << 14,

	wire.FrameAuthority: 1 << 16,
}

// Main runs the agent and returns its exit code. With "exec" as its first
// argument it is the short-lived program that becomes the user's program.
func Main(args []string) int {
	if len(args) > 1 && args[1] == execArgument {
		return becomeProgram(args[2:])
	}
	if err := run(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "execgate-agent:", err)
		return 1
	}
	return 0
}

func run(args []string) error {
	users, err := usersOf(args)
	if err != nil {
		return err
	}
	if err := protect(); err != nil {
		return err
	}
	if err := users.share(writable); err != nil {
		return err
	}
	// The agent shares the sandbox's CPU with the program; more threads would
	// only take processes away from it.
	runtime.GOMAXPROCS(2)
	spawnThreads(spareThreads)
	stdio, err := openStdio()
	if err != nil {
		return err
	}
	return serve(stdio, users)
}

// agent is one sandbox's, with one program at a time.
type agent struct {
	session  *wire.Session
	control  net.Conn
	frames   chan wire.Frame // closed when the gateway has ended the session
	users    users
	children *children
	before   leftover // what is in the sandbox that no program has left

	last   uint32   // round
	unfit  error    // why a file of the next program could not be laid
	parked *process // waits for its job, or, of a session, for its next one
	zygote *zygote  // forks for each job

	addresses addresses // that names are given
	trust     trust     // what programs are to trust
}

// serve speaks with the gateway until the gateway ends the session.
func serve(conn io.ReadWriteCloser, users users) error {
	session, err := wire.Serve(conn)
	if err != nil {
		return err
	}
	defer session.Close()
	kind, control, err := session.Accept()
	if err != nil {
		return err
	}
	if kind != wire.KindControl {
		return fmt.Errorf("the first stream is of kind %d, not control", kind)
	}
	seen, err := report(users)
	if err != nil {
		return err
	}
	hello := wire.Hello{Version: wire.Version, Arch: runtime.GOARCH, Report: seen}
	if err := wire.WriteJSON(control, wire.FrameHello, hello); err != nil {
		return err
	}
	a := &agent{session: session, control: control, frames: make(chan wire.Frame), users: users, children: newChildren()}
	go a.receive()
	a.before = look()
	return a.follow()
}

// receive reads frames until the session ends.
func (a *agent) receive() {
	defer close(a.frames)
	reader := wire.NewReader(a.control)
	for {
		frame, err := reader.Next(fromGateway)
		if err != nil {
			return
		}
		a.frames <- frame
	}
}

// follow does what the gateway asks, one thing after another, until it ends the
// session.
func (a *agent) follow() error {
	for frame := range a.frames {
		var err error
		switch frame.Type {
		case wire.FrameFile:
			if a.unfit == nil {
				a.unfit = a.lay(frame)
			}
		case wire.FrameSync:
			err = wire.WriteJSON(a.control, wire.FrameDone, wire.Done{Problem: problemOf(a.unfit)})
			a.unfit = nil
		case wire.FrameFetch:
			err = a.fetch(frame)
		case wire.FrameAuthority:
			a.certify(frame)
		case wire.FramePark:
			err = a.park(frame)
		case wire.FrameStart:
			err = a.round(frame)
		case wire.FrameSignal: // came too late for its program
		default:
			err = fmt.Errorf("frame %d is not for an agent", frame.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// park starts a driver ahead of its job and waits until it is ready for it.
func (a *agent) park(frame wire.Frame) error {
	var spec wire.Process
	if err := frame.Decode(&spec); err != nil {
		return err
	}
	if a.parked != nil { // it was not the one that is needed
		a.parked.leave()
		a.parked = nil
		a.children.killAll()
	}
	var err error
	switch {
	case spec.Fork:
		a.zygote, err = a.startZygote(spec)
	default:
		a.parked, err = a.launch(spec, true, true, a.users.of(a.last+1))
		if err == nil {
			err = a.parked.park()
		}
	}
	if err != nil {
		return err
	}
	a.before = look()
	return wire.Write(a.control, wire.FrameParked, nil)
}

// streams are those of one program.
type streams struct{ stdin, stdout, stderr net.Conn }

func (a *agent) acceptStreams() (streams, error) {
	var s streams
	for s.stdin == nil || s.stdout == nil || s.stderr == nil {
		kind, stream, err := a.session.Accept()
		if err != nil {
			return s, err
		}
		switch kind {
		case wire.KindStdin:
			s.stdin = stream
		case wire.KindStdout:
			s.stdout = stream
		case wire.KindStderr:
			s.stderr = stream
		default:
			return s, fmt.Errorf("stream of unexpected kind %d", kind)
		}
	}
	return s, nil
}

// round runs one program and reports its end. One that cannot be started has
// ended, as in a shell.
func (a *agent) round(frame wire.Frame) error {
	var start wire.Start
	if err := frame.Decode(&start); err != nil {
		return err
	}
	streams, err := a.acceptStreams()
	if err != nil {
		return err
	}
	a.last = start.Round
	r := &round{agent: a, start: start, streams: streams, uid: a.users.of(start.Round)}
	unfit := a.unfit
	a.unfit = nil
	if unfit == nil {
		unfit = r.begin()
	}
	if err := wire.Write(a.control, wire.FrameStarted, nil); err != nil {
		return err
	}
	var exited wire.Exited
	if unfit != nil {
		exited = r.refuse(unfit)
	} else {
		stop := r.takeSignals()
		exited = r.wait()
		stop()
	}
	// Before anybody is told of the end, or reads what is left.
	if err := r.withdraw(); err != nil {
		return err
	}
	if unfit == nil {
		if err := as(r.uid, func() error { return r.collect(&exited) }); err != nil {
			return err
		}
		exited.Stayed = exited.Stayed && a.stayed() // it may have gone on meanwhile
	}
	if err := wire.WriteJSON(a.control, wire.FrameExited, exited); err != nil {
		return err
	}
	if start.Keep != wire.KeepReuse {
		return nil // the gateway ends the sandbox, or goes on with the session
	}
	return wire.WriteJSON(a.control, wire.FrameCleaned, a.clean(r.uid))
}

// problemOf is why a file could not be laid or read, in the gateway's words.
func problemOf(err error) wire.Problem {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrNotExist):
		return wire.ProblemNotFound
	case isFull(err), errors.Is(err, errTooLarge):
		return wire.ProblemTooLarge
	}
	return wire.ProblemRefused
}
