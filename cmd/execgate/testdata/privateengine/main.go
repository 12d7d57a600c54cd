// Command privateengine is two things for tests that break a container engine.
//
// As "engine FOLDER MIB" it is process 1 of namespaces of its own, with a
// containerd and a dockerd that nobody else uses, whose data are on a file
// system of so many MiB. It obeys the words that come on standard input, and
// when that ends everything ends with it.
//
// As "driver" it is a language for an image that holds nothing else: a program
// is lines of "print TEXT", "sleep SECONDS" and "spin",
// which does not heed SIGTERM.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	err := errors.New("usage: privateengine engine FOLDER MIB | driver")
	switch {
	case len(os.Args) == 4 && os.Args[1] == "engine":
		err = serve(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == "driver":
		err = drive()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve runs the engine until standard input ends.
func serve(folder, mib string) error {
	e := &engine{folder: folder, data: filepath.Join(folder, "data")}
	// What is mounted from here on is nobody else's.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll(e.data, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("privateengine", e.data, "tmpfs", 0, "mode=0711,size="+mib+"m"); err != nil {
		return fmt.Errorf("mount the engine's disk: %w", err)
	}
	if err := e.startContainerd(); err != nil {
		return err
	}
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		answer := "ok"
		if err := e.obey(words.Text()); err != nil {
			answer = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	return words.Err()
}

// patience is how long is waited for a program that begins or ends. It only ends what
// hangs, on a machine that may be busy.
const patience = 2 * time.Minute

type engine struct {
	folder, data string

	dockerd *exec.Cmd
	gone    chan struct{} // closed when dockerd is
}

// obey does what one word says.
func (e *engine) obey(word string) error {
	switch word {
	case "start":
		return e.startDockerd()
	case "stop": // as a service manager does
		return e.end(syscall.SIGTERM)
	case "kill":
		return e.end(syscall.SIGKILL)
	case "freeze":
		return e.dockerd.Process.Signal(syscall.SIGSTOP)
	case "thaw":
		return e.dockerd.Process.Signal(syscall.SIGCONT)
	case "fill":
		return fill(e.ballast())
	case "free":
		return os.Remove(e.ballast())
	}
	return fmt.Errorf("what is %q?", word)
}

func (e *engine) ballast() string { return filepath.Join(e.data, "ballast") }

func (e *engine) startContainerd() error {
	socket := filepath.Join(e.data, "containerd.sock")
	if _, err := e.run("containerd", "--root", filepath.Join(e.data, "containerd"),
		"--state", filepath.Join(e.data, "containerd-state"), "--address", socket, "--config", "/dev/null"); err != nil {
		return err
	}
	return listening(socket, nil)
}

func (e *engine) startDockerd() error {
	socket := filepath.Join(e.folder, "engine.sock")
	os.Remove(socket)
	pidfile := filepath.Join(e.data, "dockerd.pid")
	os.Remove(pidfile)                                // left by one that was killed, and another process may have its number
	config := filepath.Join(e.folder, "dockerd.json") // else the machine's own counts
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		return err
	}
	cmd, err := e.run("dockerd", "--host", "unix://"+socket, "--pidfile", pidfile,
		"--data-root", filepath.Join(e.data, "docker"), "--exec-root", filepath.Join(e.data, "docker-state"),
		"--containerd", filepath.Join(e.data, "containerd.sock"), "--config-file", config,
		"--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false",
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/"+filepath.Base(e.folder))
	if err != nil {
		return err
	}
	e.dockerd, e.gone = cmd, make(chan struct{})
	go func(gone chan struct{}) {
		cmd.Wait()
		close(gone)
	}(e.gone)
	return listening(socket, e.gone)
}

// run starts a program whose words go to a file of its own.
func (e *engine) run(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(e.folder, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

func (e *engine) end(signal syscall.Signal) error {
	if err := e.dockerd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-e.gone:
		return nil
	case <-time.After(patience):
		return errors.New("dockerd does not end")
	}
}

// listening waits until somebody answers at a socket, or whoever should is gone.
func listening(socket string, gone <-chan struct{}) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var conn net.Conn
		if conn, err = net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case <-gone:
			return errors.New("it ended at its start")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return err
}

// fill writes to a file until there is no space, to the last byte. What has become free
// since it was called last it takes too.
func fill(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, block := range [][]byte{make([]byte, 1<<20), make([]byte, 4<<10)} {
		for err = nil; err == nil; {
			_, err = file.Write(block)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// drive runs one program, parked before where it is told to be.
func drive() error {
	job := os.NewFile(3, "job")
	say := func(byte) {}
	if n, err := strconv.Atoi(os.Getenv("EXECGATE_READY")); err == nil {
		ready := os.NewFile(uintptr(n), "ready")
		say = func(word byte) { ready.Write([]byte{word}) }
		defer ready.Close()
	}
	say('P')
	text, err := io.ReadAll(job)
	if err != nil {
		return err
	}
	say('T')
	var program struct{ Code string }
	if err := json.Unmarshal(text, &program); err != nil {
		return err
	}
	for line := range strings.Lines(program.Code) {
		if err := do(strings.TrimSpace(line)); err != nil {
			return err
		}
	}
	return nil
}

func do(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "print":
		fmt.Println(rest)
	case "sleep":
		seconds, err := strconv.Atoi(rest)
		time.Sleep(time.Duration(seconds) * time.Second)
		return err
	case "spin":
		signal.Ignore(syscall.SIGTERM)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for {
				}
			})
		}
		group.Wait()
	default:
		return fmt.Errorf("what is %q?", line)
	}
	return nil
}
