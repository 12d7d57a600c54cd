package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// serve runs each step in a copy of a fork server. It must be the process that orphans become
// children of.
func serve(o order) (reports []report) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	check(err)
	theirs := os.NewFile(uintptr(pair[1]), "control")
	readyOut, ready, err := os.Pipe()
	check(err)
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{nil, ready, theirs}
	cmd.Env = append(o.Env, "EXECGATE_READY=4", "EXECGATE_FORK=5")
	check(cmd.Start())
	started.Store(cmd.Process)
	theirs.Close()
	ready.Close()
	words := newWords(readyOut)
	for _, s := range o.Steps {
		if words.next('P') < 0 {
			break
		}
		reports = append(reports, program(pair[0], s))
	}
	parked := words.next('P') >= 0
	syscall.Close(pair[0])
	// The last servers end: nobody holds their ready descriptor any more.
	_, _ = io.Copy(io.Discard, readyOut)
	for {
		var w syscall.WaitStatus
		if _, err := syscall.Wait4(-1, &w, 0, nil); err == syscall.ECHILD {
			break
		}
	}
	return append(reports, report{Lost: !parked})
}

// program has the process that waits run one program, and waits for that process's end.
func program(control int, s step) report {
	jobs, jobsIn, err := os.Pipe()
	check(err)
	readyOut, ready, err := os.Pipe()
	check(err)
	current.Add(1)
	stdin, stdout, stderr := stdinFile(), newOutput(), newOutput()
	refill(stdin, s.Stdin)
	os.Remove(resultPath)
	os.Remove(resultPath + ".error")

	message := []byte(s.Message)
	if s.Message == "" {
		message, err = json.Marshal(map[string]any{"uid": s.UID, "pids": 64, "env": s.Env})
		check(err)
	}
	rights := syscall.UnixRights(int(stdin.Fd()), int(stdout.writer.Fd()), int(stderr.writer.Fd()), int(jobs.Fd()), int(ready.Fd()))
	check(syscall.Sendmsg(control, message, rights, nil, 0))
	jobs.Close()
	ready.Close()
	_, _ = jobsIn.WriteString(s.Job)
	jobsIn.Close()
	words, err := io.ReadAll(readyOut)
	check(err)

	// Of all children only the one that ran the program ends by now.
	var w syscall.WaitStatus
	_, err = syscall.Wait4(-1, &w, 0, nil)
	check(err)
	return report{Exit: status(w), Stdout: stdout.take(), Stderr: stderr.take(), Ready: string(words),
		Lost: len(words) == 0 || words[0] != 'T', Result: read(resultPath), Error: read(resultPath + ".error")}
}
