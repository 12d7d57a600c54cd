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
	own   int64         // processes and threads in the sandbox that are not the program's
	begun chan struct{} // closed once the step through "exec" is over
	stop  chan struct{}

	mu     sync.Mutex
	before int64 // the peak of processes before the program was one
	full   []string
	used   int64 // bytes of memory, the most that was seen
	most   int64 // processes and threads of the program, the most that was seen
}

func newWatch(pids, own int64) *watch {
	return &watch{pids: pids, own: own, begun: make(chan struct{}), stop: make(chan struct{})}
}

// run looks from time to time, once started reads as ended: the step through
// "exec" has threads of its own, which are not the program's.
func (w *watch) run(started *os.File) {
	if started != nil {
		started.Read(make([]byte, 1))
		started.Close()
	}
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

// memory is the most that was seen in use, in bytes.
func (w *watch) memory() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used
}

// finish takes a last look while what the main process left is still alive,
// and writes what was seen into exited.
func (w *watch) finish(exited *wire.Exited) {
	<-w.begun // it is: a main process that has ended holds no descriptor
	close(w.stop)
	w.look(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := cgroupNow.pidsPeak(); ok && n > w.before {
		// A peak that was there before tells of the step through "exec" alone.
		w.most = max(w.most, n-w.own)
	}
	exited.Processes = max(1, min(w.most, w.pids))
	exited.PIDsHit = w.most >= w.pids
	exited.FullMounts = w.full
}

// look samples. gone is the number of processes that have just ended and were
// alive when the limit may have been met.
func (w *watch) look(gone int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := cgroupNow.pidsCurrent(); ok {
		w.most = max(w.most, n-w.own+gone)
	}
	w.used = max(w.used, cgroupNow.memory())
	for _, path := range writable {
		if !slices.Contains(w.full, path) && mountFull(path) {
			w.full = append(w.full, path)
		}
	}
}

func mountFull(path string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return false
	}
	return fs.Blocks > 0 && fs.Bavail == 0 || fs.Files > 0 && fs.Ffree == 0
}
