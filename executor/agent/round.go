//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// round is one program and everything it started, from its start to its end.
type round struct {
	agent   *agent
	start   wire.Start
	streams streams
	uid     int // its own user; 0: the agent's

	process        *process
	network        *network  // what it may connect to; nil: nothing
	secrets        []*secret // files that only it may have
	watch          *watch
	stdout, stderr *pump
	out            fileTimes // of a session: what earlier programs left in the folder for artifacts
	begun          time.Time
	before         counters
	ownCPU         int64 // microseconds, of the agent, at the same time
}

// begin starts the program, or gives the driver that waits its job. Its error
// is why the program cannot be started.
func (r *round) begin() (err error) {
	a := r.agent
	if err := as(r.uid, r.prepare); err != nil {
		return err
	}
	if r.start.Network != nil {
		if err := a.trust.lay(); err != nil {
			return err
		}
		if r.network, err = a.connect(r.start.Round, *r.start.Network); err != nil {
			return err
		}
	}
	switch {
	case a.zygote != nil:
		r.process, err = a.zygote.fork(r.uid, r.start.Process)
	case a.parked != nil && a.parked.usable():
		r.process = a.parked
	case r.start.Process.Stays:
		// The interpreter of the session is gone: this one takes its place.
		a.parked, err = a.launch(r.start.Process, true, true, r.uid)
		r.process = a.parked
	default:
		r.process, err = a.launch(r.start.Process, r.start.Job != nil, false, r.uid)
	}
	if err != nil {
		return err
	}
	if !r.process.stays {
		a.parked = nil
	}
	return r.give()
}

// prepare makes the places that a program finds, as the program's user.
func (r *round) prepare() error {
	if err := os.MkdirAll(filepath.Join(wire.Workspace, outFolder), 0o755); err != nil {
		return fmt.Errorf("make the folder for artifacts: %w", err)
	}
	if err := r.laySecrets(); err != nil {
		return err
	}
	if r.start.Keep != wire.KeepSession {
		return nil
	}
	for _, path := range []string{wire.ResultPath, wire.ResultPath + wire.ResultErrorSuffix} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the last result: %w", err)
		}
	}
	r.out = artifactTimes()
	return nil
}

// withdraw takes from a program that has ended what it alone was given.
func (r *round) withdraw() error {
	if r.network != nil {
		r.network.close()
	}
	return as(r.uid, r.removeSecrets)
}

// takenTimeout bounds the wait for a driver to take its job, after which the
// program's time begins all the same: an earlier program may have put another in
// the driver's place, which takes none.
const takenTimeout = time.Second

// give connects the process with its streams, and a driver with its job. It
// returns once the driver has the job, or is gone, or takes too long.
func (r *round) give() error {
	p := r.process
	r.watch = newWatch(r.start.Process.PIDs, r.agent.own())
	r.before, r.ownCPU, r.begun = cgroupNow.counters(), ownCPU(), time.Now()
	if err := p.fill(r.streams.stdin); err != nil {
		return err
	}
	r.stdout, r.stderr = newPump(p.stdout, r.streams.stdout), newPump(p.stderr, r.streams.stderr)
	p.begin(r.start.Job)
	if p.waits {
		late := time.NewTimer(takenTimeout)
		select {
		case <-p.taken:
		case <-p.child.gone:
		case <-late.C:
		}
		late.Stop()
		r.before, r.ownCPU, r.begun = cgroupNow.counters(), ownCPU(), time.Now()
	}
	go r.watch.run(p.started)
	return nil
}

// refuse tells the caller why the program cannot be started.
func (r *round) refuse(unfit error) wire.Exited {
	fmt.Fprintln(r.streams.stderr, "execgate: cannot start the program:", unfit)
	r.streams.stdin.Close()
	r.streams.stdout.Close()
	r.streams.stderr.Close()
	exited := wire.Exited{ExitCode: exitCannotRun, PeakMemory: cgroupNow.counters().peak, Stayed: r.agent.stayed()}
	if isFull(unfit) {
		exited.FullMounts = []string{wire.Workspace}
		if errors.Is(unfit, errTrust) {
			exited.FullMounts = []string{path.Dir(wire.TrustPath)}
		}
	}
	return exited
}

// takeSignals delivers the gateway's signals until stop is called. When the
// session ends it ends the sandbox: nobody is left to take a result.
func (r *round) takeSignals() (stop func()) {
	over, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-over:
				return
			case frame, ok := <-r.agent.frames:
				if !ok || frame.Type != wire.FrameSignal {
					os.Exit(1)
				}
				n, round, err := frame.Signal()
				if err != nil {
					os.Exit(1)
				}
				if round == r.start.Round {
					r.signal(unix.Signal(n))
				}
			}
		}
	}()
	return func() { close(over); <-stopped }
}

// signal sends n to everything of the program, as a terminal does: a shell waits
// for its child to be interrupted too.
func (r *round) signal(n unix.Signal) {
	if r.agent.users.separate() {
		signalEach(n, isProgram)
	} else {
		signalAll(n)
	}
}

// wait returns once the program has ended, nothing that it left runs but a
// driver that stays, and all its output has been passed on.
func (r *round) wait() wire.Exited {
	var exited wire.Exited
	p := r.process
	select {
	case status := <-p.done:
		exited.WallUS = time.Since(r.begun).Microseconds()
		exited.ExitCode = int(status)
		r.watch.finish(&exited)
		if p.stays {
			if exited.Stayed = p.freeze(); exited.Stayed {
				r.stdout.drain()
				r.stderr.drain()
				break
			}
			r.killRest()
			r.end()
			break
		}
		r.endProgram()
		r.end()
	case <-p.child.gone:
		exited.WallUS = time.Since(r.begun).Microseconds()
		exited.ExitCode, exited.Signal = p.child.ending()
		r.watch.finish(&exited)
		r.killRest()
		r.end()
	}
	r.count(&exited)
	return exited
}

// killRest ends everything that the main process has left, and waits for that.
func (r *round) killRest() {
	if r.agent.users.separate() {
		killEach(r.agent.children, isProgram)
	} else {
		r.agent.children.killAll()
	}
}

// leavingLooks bounds how often it is looked whether a program leaves by itself,
// and leavingPause is between two looks.
const (
	leavingLooks = 20
	leavingPause = 50 * time.Microsecond
)

// endProgram ends a program whose driver says that it is over, and returns once
// nothing of it can run any more: what is left to do is the kernel's, which with
// much memory takes longer than many a program. To say so too early gains a
// program nothing but its own end.
func (r *round) endProgram() {
	for range leavingLooks {
		if noneRuns(r.agent.users.separate()) {
			return
		}
		if r.agent.users.separate() {
			signalEach(unix.SIGKILL, isProgram)
		} else {
			signalAll(unix.SIGKILL)
		}
		r.process.child.await(leavingPause)
	}
	r.killRest()
	<-r.process.child.gone
}

// end takes the last of the output, and forgets the process.
func (r *round) end() {
	r.stdout.wait()
	r.stderr.wait()
	r.process.close()
	if r.agent.parked == r.process {
		r.agent.parked = nil
	}
}

// count writes what the program has used into exited.
func (r *round) count(exited *wire.Exited) {
	now := cgroupNow.counters()
	// The agent's own share is not the program's: watching alone takes 1.5 % of a processor.
	exited.CPUUS = max(0, now.cpuUS-r.before.cpuUS-(ownCPU()-r.ownCPU))
	exited.OOMKills = now.oomKills - r.before.oomKills
	exited.PIDsHit = exited.PIDsHit || now.pidsRefused > r.before.pidsRefused
	exited.PeakMemory = now.peak
	if now.peak == 0 || r.start.Round > 1 && now.peak == r.before.peak {
		// There is none, or it is an earlier program's: what was seen is the least that this one used.
		exited.PeakMemory = max(r.watch.memory(), now.memory)
	}
}

// ownCPU is the processor time that the agent has used, in microseconds.
func ownCPU() int64 {
	var own unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &own) != nil {
		return 0
	}
	return (own.Utime.Nano() + own.Stime.Nano()) / 1000
}

// stayed reports whether a driver waits for another job.
func (a *agent) stayed() bool { return a.parked != nil && a.parked.stays && a.parked.isStill() }

// own is how many processes and threads in the sandbox are not the program's.
func (a *agent) own() int64 {
	own := int64(ownThreads())
	if a.zygote != nil {
		own += zygoteProcesses
	}
	return own
}

var errTooLarge = errors.New("larger than may be")

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
