//go:build linux

package agent

import (
	"os"
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
	pids  int64         // granted to the program
	own   int64         // threads of this process
	begun chan struct{} // closed once the step through "exec" is over
	stop  chan struct{}

	mu      sync.Mutex
	before  int64 // the peak of processes before the program was one
	pidsHit bool
	full    []string
	memory  int64 // the most that was seen, in bytes
}

func newWatch(pids, own int64) *watch {
	return &watch{pids: pids, own: own, begun: make(chan struct{}), stop: make(chan struct{})}
}

// run looks from time to time, once started reads as ended: the step through
// "exec" has threads of its own, which are not the program's.
func (w *watch) run(started *os.File) {
	started.Read(make([]byte, 1))
	started.Close()
	w.begin()
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

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer close(w.begun)
	w.before, _ = cgroupNow.pidsPeak()
}

// finish takes a last look while what the main process left is still alive,
// and writes what was seen into exited.
func (w *watch) finish(exited *wire.Exited) {
	<-w.begun // it is: a main process that has ended holds no descriptor
	close(w.stop)
	w.look(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	exited.PIDsHit = w.pidsHit || w.peakReached()
	exited.FullMounts = w.full
	exited.PeakMemory = w.memory
}

// look samples. gone is the number of processes that have just ended and were
// alive when the limit may have been met.
func (w *watch) look(gone int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := cgroupNow.pidsCurrent(); ok && n-w.own+gone >= w.pids {
		w.pidsHit = true
	}
	w.memory = max(w.memory, cgroupNow.memoryUnkept())
	for _, path := range writable {
		if !slices.Contains(w.full, path) && isFull(path) {
			w.full = append(w.full, path)
		}
	}
}

// peakReached asks the kernel for the most processes there ever were, which
// shows a limit that was met and left between two looks. A peak that was there
// before the program tells of the step through "exec" alone.
func (w *watch) peakReached() bool {
	n, ok := cgroupNow.pidsPeak()
	return ok && n > w.before && n-w.own >= w.pids
}

func isFull(path string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return false
	}
	return fs.Blocks > 0 && fs.Bavail == 0 || fs.Files > 0 && fs.Ffree == 0
}
