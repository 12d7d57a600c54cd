package audit

import (
	"sync"
	"time"
)

// Hold is what segments wait for that are not to be kept any more.
type Hold string

// What segments wait for.
const (
	HeldBySignature Hold = "signature" // a checkpoint that covers them
	HeldByExporters Hold = "exporters" // a sink that does not have them
	HeldByIndex     Hold = "index"     // usage, of which they are not part yet
	HeldByExecution Hold = "execution" // one that is open, whose decision is in them
)

// Holds lists every Hold.
func Holds() []Hold { return []Hold{HeldBySignature, HeldByExporters, HeldByIndex, HeldByExecution} }

// waitingTold is how long segments wait for one thing before that is told: a moment is
// usual.
const waitingTold = time.Minute

// waiting is what waits to be removed.
type waiting struct {
	mu       sync.Mutex
	why      Hold
	segments int
	since    time.Time
	told     bool
}

// note takes note of segments that wait, and reports whether that has lasted for so long
// that it is worth a word, once.
func (w *waiting) note(why Hold, segments int, at time.Time) (tell bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if segments == 0 {
		why = ""
	}
	if why != w.why {
		w.since, w.told = at, false
	}
	w.why, w.segments = why, segments
	tell = why != "" && !w.told && at.Sub(w.since) >= waitingTold
	w.told = w.told || tell
	return tell
}

func (w *waiting) now() (segments int, why Hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.segments, w.why
}

func (l *Log) noteWaiting(why Hold, segments int) {
	if l.waiting.note(why, segments, time.Now()) {
		l.cfg.Logger.Warn("audit log keeps segments that are due to be removed, they are still needed", "segments", segments, "for", string(why))
	}
}
