//go:build linux

package agent

import (
	"runtime"
	"sync"
)

// spareThreads are more than the agent ever blocks at once: waiting for
// children, looking at the sandbox, signalling, reading what is left.
const spareThreads = 8

// spawnThreads makes the runtime create, before anything hostile runs, every
// thread that it will need, and keep it. The process limit counts threads: one
// made later would be missing from the program's grant, and one that could not
// be made any more would end the agent ("newosproc").
func spawnThreads(n int) {
	var ready sync.WaitGroup
	done := make(chan struct{})
	ready.Add(n)
	var gone sync.WaitGroup
	for range n {
		gone.Go(func() {
			// A goroutine that waits while it is locked keeps a thread for
			// itself; unlocked before it ends, the thread stays for others.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-done
		})
	}
	ready.Wait()
	close(done)
	gone.Wait()
}

// ownThreads counts the threads of this process.
func ownThreads() int {
	entries, err := readNames("/proc/self/task")
	if err != nil {
		return 1
	}
	return len(entries)
}
