//go:build linux

// Package agent is the program that is process 1 inside every sandbox. It
// speaks with the gateway over its standard input and output, starts one
// program, carries the program's streams, and reports how it ended.
//
// In the profile "sealed" it has no capability and shares its user with the
// program, which is hostile: the agent makes itself unreadable, ignores every
// signal that can be ignored, and keeps no secret. Where the program still
// brings it down, the gateway decides the outcome from outside.
package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// Frames that the gateway may send. The gateway is trusted, so these bounds
// only keep a fault from exhausting memory.
var fromGateway = map[wire.FrameType]int{
	wire.FrameFile:   64 << 20,
	wire.FrameStart:  64 << 20,
	wire.FramePark:   1 << 20,
	wire.FrameSignal: 1,
}

// Main runs the agent and returns its exit code. With "exec" as its first
// argument it is the short-lived program that becomes the user's program.
func Main(args []string) int {
	if len(args) > 1 && args[1] == "exec" {
		return becomeProgram(args[2:])
	}
	if err := protect(); err != nil {
		fmt.Fprintln(os.Stderr, "execgate-agent:", err)
		return 1
	}
	// The agent shares the sandbox's CPU with the program; more threads would
	// only take processes away from it.
	runtime.GOMAXPROCS(2)
	spawnThreads(spareThreads)
	stdio, err := openStdio()
	if err == nil {
		err = serve(stdio)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "execgate-agent:", err)
		return 1
	}
	return 0
}

// serve speaks with the gateway until the gateway ends the session.
func serve(conn io.ReadWriteCloser) error {
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
	hello := wire.Hello{Version: wire.Version, Arch: runtime.GOARCH, Report: report()}
	if err := wire.WriteJSON(control, wire.FrameHello, hello); err != nil {
		return err
	}
	streams, err := acceptStreams(session)
	if err != nil {
		return ended(err)
	}
	return ended(converse(control, streams))
}

// ended turns the end of the session, which is the gateway's to bring about,
// into no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// streams are those of one program.
type streams struct{ stdin, stdout, stderr net.Conn }

func acceptStreams(session *wire.Session) (streams, error) {
	var s streams
	for s.stdin == nil || s.stdout == nil || s.stderr == nil {
		kind, stream, err := session.Accept()
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

// converse takes files and a program from the control stream, runs it, and
// reports its end. A program that cannot be started has ended, as in a shell.
func converse(control net.Conn, s streams) error {
	frames := wire.NewReader(control, fromGateway)
	r := request{streams: s}
	if err := r.receive(control, frames); err != nil {
		return err
	}
	unfit := r.begin()
	if err := wire.Write(control, wire.FrameStarted, nil); err != nil {
		return err
	}
	go forwardSignals(frames)
	var exited wire.Exited
	if unfit != nil {
		exited = s.refuse(unfit)
	} else {
		exited = r.program.wait()
		if err := collect(control, r.start, &exited); err != nil {
			return err
		}
	}
	if err := wire.WriteJSON(control, wire.FrameExited, exited); err != nil {
		return err
	}
	// The gateway removes the sandbox. Until then this process must not end,
	// or its last words could be lost with the stream.
	select {}
}

// request is what the gateway asks of this sandbox.
type request struct {
	streams streams
	start   wire.Start
	unfit   error    // why the program cannot be started, which is the request's own doing
	program *program // parked, and then running
}

// receive takes frames until the one that starts the program. Its error means
// that the stream is broken, or that a driver cannot be parked.
func (r *request) receive(control net.Conn, frames *wire.Reader) error {
	for {
		frame, err := frames.Next()
		if err != nil {
			return err
		}
		switch {
		case frame.Type == wire.FrameFile:
			if r.unfit == nil {
				r.unfit = layFile(frame)
			}
		case frame.Type == wire.FrameStart:
			return frame.Decode(&r.start)
		case frame.Type == wire.FramePark && r.program == nil:
			if err := r.park(frame); err != nil {
				return err
			}
			if err := wire.Write(control, wire.FrameParked, nil); err != nil {
				return err
			}
		default:
			return fmt.Errorf("frame %d before start", frame.Type)
		}
	}
}

// park starts a driver ahead of its job and waits until it is ready for it.
func (r *request) park(frame wire.Frame) (err error) {
	var process wire.Process
	if err := frame.Decode(&process); err != nil {
		return err
	}
	if r.program, err = launch(process, r.streams, true, true); err != nil {
		return err
	}
	return r.program.parked()
}

// begin starts the program, or gives the driver that is parked its job. Its
// error is why the program cannot be started.
func (r *request) begin() (err error) {
	if r.unfit != nil {
		return r.unfit
	}
	if r.program == nil {
		if r.start.Process == nil {
			return errors.New("start without a program")
		}
		if r.program, err = launch(*r.start.Process, r.streams, r.start.Job != nil, false); err != nil {
			return err
		}
	}
	r.program.begin(r.start.Job)
	return nil
}

// refuse tells the caller why the program cannot be started.
func (s streams) refuse(unfit error) wire.Exited {
	fmt.Fprintln(s.stderr, "execgate: cannot start the program:", unfit)
	s.stdout.Close()
	s.stderr.Close()
	exited := wire.Exited{ExitCode: exitCannotRun}
	cgroupNow.counters(&exited)
	if errors.Is(unfit, unix.ENOSPC) {
		exited.FullMounts = []string{wire.Workspace}
	}
	return exited
}

// forwardSignals delivers the gateway's signals until the session ends, and
// then ends the sandbox: without a gateway nobody is left to take a result.
func forwardSignals(frames *wire.Reader) {
	for {
		frame, err := frames.Next()
		if err != nil || frame.Type != wire.FrameSignal || len(frame.Payload) != 1 {
			os.Exit(1)
		}
		signalAll(int(frame.Payload[0]))
	}
}
