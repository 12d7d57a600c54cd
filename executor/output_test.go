package executor

import (
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// A program that never began leaves no stream to end, and a listener is no
// reason to wait for one.
func TestOutputOfAProgramThatNeverBeganIsNotWaitedFor(t *testing.T) {
	listener := func(execution.Event) error { return nil }
	returned := make(chan struct{})
	go func() {
		newOutput(1, newFeed(listener)).wait(time.Millisecond, nil)
		close(returned)
	}()
	select {
	case <-returned:
	case <-time.After(inTime):
		t.Fatal("it is waited for without end")
	}
}
