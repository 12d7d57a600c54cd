// Command agent stands in for the sandbox agent in tests: it holds a driver's descriptors for a
// session or for a fork server. It reads an order from standard input and writes its reports to
// standard output, both as JSON.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// An order is what to start and what to have it do.
type order struct {
	Command []string
	Env     []string
	// Steps are the jobs, one after another.
	Steps []step
	// Fork starts Command as a fork server, and each step in a copy of it.
	Fork bool
}

// A step is one job.
type step struct {
	Job   string // as it is sent
	Stdin string
	// InterruptOn is a part of stdout after which the whole group is interrupted.
	InterruptOn string
	// Early interrupts before the job is sent, while no program runs.
	Early bool

	// UID and Env are of a fork server's program. Message replaces the whole message.
	UID     int
	Env     [][2]string
	Message string
}

// A report is what came of a step, or of the driver's end. Exit is negative for a signal.
type report struct {
	Exit           int
	Stdout, Stderr string
	Result, Error  *string
	// Lost says that the driver ended, or that its program was never begun.
	Lost bool
	// Ready is all that a fork server's program wrote to its ready descriptor.
	Ready string
}

const (
	resultPath = "/tmp/session-result"
	// patience bounds all steps together, on a machine that does a lot beside.
	patience = 5 * time.Minute
	// unheard is when an interrupt is sent again. CPython runs a signal's handler between two steps
	// of the program: one that comes after the last step before a call that blocks, and before the
	// call has begun, is not heard until that call is over.
	// It is long past any time in which one that was heard ends a program, which a second one would
	// meet at its end.
	unheard = 20 * time.Second
)

// started is the driver, which must not outlive this process.
var started atomic.Pointer[os.Process]

// current is the number of the step under way, from 1.
var current atomic.Int64

func main() {
	var o order
	check(json.NewDecoder(os.Stdin).Decode(&o))
	time.AfterFunc(patience, func() {
		if driver := started.Load(); driver != nil {
			_ = driver.Kill()
		}
		check(fmt.Errorf("the driver hangs in step %d", current.Load()))
	})
	var reports []report
	if o.Fork {
		reports = serve(o)
	} else {
		reports = session(o)
	}
	check(json.NewEncoder(os.Stdout).Encode(reports))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// An output is a pipe that a driver writes to.
type output struct {
	reader, writer *os.File
	mu             sync.Mutex
	grew           *sync.Cond
	seen           bytes.Buffer
	ended          bool
}

func newOutput() *output {
	r, w, err := os.Pipe()
	check(err)
	o := &output{reader: r, writer: w}
	o.grew = sync.NewCond(&o.mu)
	go func() {
		part := make([]byte, 1<<16)
		for {
			n, err := r.Read(part)
			o.mu.Lock()
			o.seen.Write(part[:n])
			o.ended = err != nil
			o.grew.Broadcast()
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

func (o *output) await(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.ended && !bytes.Contains(o.seen.Bytes(), []byte(text)) {
		o.grew.Wait()
	}
}

const mark = "\x00end of the step\x00"

// take returns what the driver had written when take was called.
func (o *output) take() string {
	_, err := o.writer.WriteString(mark)
	check(err)
	o.await(mark)
	o.mu.Lock()
	defer o.mu.Unlock()
	text, rest, _ := bytes.Cut(o.seen.Bytes(), []byte(mark))
	taken := string(text)
	left := bytes.Clone(rest)
	o.seen.Reset()
	o.seen.Write(left)
	return taken
}

func stdinFile() *os.File {
	file, err := os.CreateTemp("/tmp", "stdin")
	check(err)
	check(os.Remove(file.Name()))
	return file
}

func refill(file *os.File, text string) {
	check(file.Truncate(0))
	_, err := file.WriteAt([]byte(text), 0)
	check(err)
	_, err = file.Seek(0, 0)
	check(err)
}

func read(path string) *string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	s := string(text)
	return &s
}

func session(o order) (reports []report) {
	jobs, jobsIn, err := os.Pipe()
	check(err)
	readyOut, ready, err := os.Pipe()
	check(err)
	stdin, stdout, stderr := stdinFile(), newOutput(), newOutput()
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout.writer, stderr.writer
	cmd.ExtraFiles = []*os.File{jobs, ready}
	cmd.Env = append(o.Env, "EXECGATE_READY=4")
	cmd.Dir = "/workspace"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(cmd.Start())
	started.Store(cmd.Process)
	jobs.Close()
	ready.Close()
	words := newWords(readyOut)

	lost := words.next('P') < 0
	for _, s := range o.Steps {
		if lost {
			break
		}
		current.Add(1)
		os.Remove(resultPath)
		os.Remove(resultPath + ".error")
		refill(stdin, s.Stdin)
		if s.Early {
			check(syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
		}
		var again *time.Timer
		_, err := jobsIn.WriteString(s.Job)
		if err == nil && words.next('T') >= 0 && s.InterruptOn != "" {
			stdout.await(s.InterruptOn)
			check(syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
			again = time.AfterFunc(unheard, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) })
		}
		r := report{Exit: words.status()}
		if again != nil {
			again.Stop()
		}
		lost = r.Exit < 0
		if !lost {
			r.Stdout, r.Stderr = stdout.take(), stderr.take()
			r.Result, r.Error = read(resultPath), read(resultPath+".error")
			reports = append(reports, r)
		}
	}
	jobsIn.Close()
	_ = cmd.Wait()
	return append(reports, report{Lost: true, Exit: exit(cmd.ProcessState), Stdout: stdout.take(), Stderr: stderr.take(),
		Result: read(resultPath), Error: read(resultPath + ".error")})
}

func exit(state *os.ProcessState) int {
	return status(state.Sys().(syscall.WaitStatus))
}

func status(s syscall.WaitStatus) int {
	if s.Signaled() {
		return -int(s.Signal())
	}
	return s.ExitStatus()
}

// Words are what a driver writes to its ready descriptor, byte by byte.
type words struct{ file *os.File }

func newWords(file *os.File) words { return words{file} }

// next returns the next byte, or -1 where it is not want or the descriptor was closed.
func (w words) next(want byte) int {
	var b [1]byte
	if n, _ := w.file.Read(b[:]); n != 1 || (want != 0 && b[0] != want) {
		return -1
	}
	return int(b[0])
}

func (w words) status() int {
	if w.next('D') < 0 {
		return -1
	}
	return w.next(0)
}
