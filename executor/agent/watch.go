//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// writable are the mounts a program can write to.
var writable = []string{"/tmp", wire.Workspace, "/dev/shm"}

// watchInterval is how often the sandbox is looked at while a program runs.
// What the kernel counts by itself does not depend on it.
const watchInterval = 20 * time.Millisecond

// watch notices limits that leave no trace once a program has ended: a table
// of processes that was full, a mount that was full with unlinked files.
type watch struct {
	pids int64 // granted to the program
	stop chan struct{}

	mu      sync.Mutex
	pidsHit bool
	full    []string
}

func newWatch(pids int64) *watch {
	return &watch{pids: pids, stop: make(chan struct{})}
}

func (w *watch) run() {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.look(0)
		}
	}
}

// finish takes a last look while what the main process left is still alive,
// and writes what was seen into exited.
func (w *watch) finish(exited *wire.Exited) {
	close(w.stop)
	w.look(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	exited.PIDsHit = w.pidsHit || w.peakReached()
	exited.FullMounts = w.full
}

// look samples. gone is the number of processes that have just ended and were
// alive when the limit may have been met.
func (w *watch) look(gone int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := cgroupNow.pidsCurrent(); ok && n-int64(ownThreads())+gone >= w.pids {
		w.pidsHit = true
	}
	for _, path := range writable {
		if !slices.Contains(w.full, path) && isFull(path) {
			w.full = append(w.full, path)
		}
	}
}

// peakReached asks the kernel for the most processes there ever were, which
// shows a limit that was met and left between two looks. The step through
// "exec" has a few threads of its own, so the peak speaks only for grants that
// are well above them.
func (w *watch) peakReached() bool {
	const execThreads = 8
	n, ok := cgroupNow.pidsPeak()
	return ok && w.pids > execThreads && n-int64(ownThreads()) >= w.pids
}

func isFull(path string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return false
	}
	return fs.Blocks > 0 && fs.Bavail == 0 || fs.Files > 0 && fs.Ffree == 0
}

// ownThreads counts the threads of this process.
func ownThreads() int {
	entries, err := os.ReadDir(filepath.Join("/proc", "self", "task"))
	if err != nil {
		return 1
	}
	return len(entries)
}
