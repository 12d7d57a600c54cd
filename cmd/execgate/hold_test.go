package main

import (
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

// hold is a program that runs until its test lets it go, however long that takes: a file
// by whose name it looks.
type hold string

var holds atomic.Int64

func newHold() hold { return hold(fmt.Sprint("/workspace/go-", holds.Add(1))) }

// code waits, and prints done.
func (h hold) code() string {
	return fmt.Sprintf("import os, time\nwhile not os.path.exists(%q): time.sleep(0.05)\nprint('done')", h)
}

// letGo lets the program end, and returns what answers its request.
func (h hold) letGo(t *testing.T, g *gatewayUnderTest, answer <-chan reply) reply {
	t.Helper()
	var r reply
	eventually(t, "the program that was let go has ended", func() bool {
		select {
		case r = <-answer:
			return true
		default:
		}
		for _, c := range g.containers() { // the name is of one program alone
			// No error: it may not be there any more, or not run yet.
			_ = exec.Command("docker", "exec", c.ID, "/bin/sh", "-c", ": >"+string(h)).Run()
		}
		select {
		case r = <-answer:
			return true
		case <-time.After(time.Second):
			return false
		}
	})
	return r
}
