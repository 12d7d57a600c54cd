//go:build linux

package agent

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children reaps every child, as process 1 must, also those that lost their
// parent, and tells how the main ones ended.
type children struct {
	mu    sync.Mutex
	mains map[int]*child
	born  chan struct{} // gets one where there may be something to wait for again
	died  chan struct{} // gets one where something was reaped
}

// child is a main process among the children.
type child struct {
	of     *children
	pid    int
	gone   chan struct{} // closed when it has been reaped
	status unix.WaitStatus
}

func newChildren() *children {
	c := &children{mains: map[int]*child{}, born: make(chan struct{}, 1), died: make(chan struct{}, 1)}
	go c.reap()
	return c
}

func (c *children) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.ECHILD {
			<-c.born
			continue
		}
		if err != nil || !status.Exited() && !status.Signaled() { // EINTR, or one that is traced has stopped
			continue
		}
		c.mu.Lock()
		if main, ok := c.mains[pid]; ok {
			delete(c.mains, pid)
			main.status = status
			close(main.gone)
		}
		c.mu.Unlock()
		offer(c.died, struct{}{})
	}
}

// spawn starts a main process.
func (c *children) spawn(argv, env []string, files []*os.File) (*child, error) {
	c.mu.Lock() // it is known before it can be reaped
	defer c.mu.Unlock()
	pid, err := forkExec(argv, env, files)
	if err != nil {
		return nil, err
	}
	return c.add(pid), nil
}

// adopt makes a child that is alive a main process.
func (c *children) adopt(pid int) *child {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.add(pid)
}

func (c *children) add(pid int) *child {
	main := &child{of: c, pid: pid, gone: make(chan struct{})}
	c.mains[pid] = main
	offer(c.born, struct{}{})
	return main
}

// await returns when the child is gone, or after a pause.
func (c *child) await(pause time.Duration) {
	late := time.NewTimer(pause)
	defer late.Stop()
	select {
	case <-c.gone:
	case <-late.C:
	}
}

// ending is how a child that is gone has ended: its exit code, or the signal.
func (c *child) ending() (code, signal int) {
	if c.status.Signaled() {
		return 0, int(c.status.Signal())
	}
	return c.status.ExitStatus(), 0
}

// killAll ends everything in the sandbox but the agent, again and again: a fork
// bomb may have forked meanwhile.
func (c *children) killAll() {
	for unix.Kill(-1, unix.SIGKILL) != unix.ESRCH {
		c.await()
	}
}

// reapPause bounds the wait for a death of which no word comes: of one whose
// parent is there to reap it.
const reapPause = time.Millisecond

// await returns when something has died, or might have.
func (c *children) await() {
	pause := time.NewTimer(reapPause)
	defer pause.Stop()
	select {
	case <-c.died:
	case <-pause.C:
	}
}
