package audit

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

var (
	errBudget  = errors.New("the disk did not answer within the budget")
	errBehind  = errors.New("too many records wait for the disk")
	errStopped = errors.New("the log is stopped")
	errFull    = errors.New("no space for the record and the ends of running work")
	errCap     = errors.New("the log may not grow further")
)

// unavailable returns the error of an Append that could not be made durable. The
// cause stays inside the process; the detail says what to do.
func unavailable(cause error) *execution.Error {
	detail := "the audit log cannot be written, so nothing was run: try again; an operator finds the cause in the gateway's log"
	switch {
	case errors.Is(cause, errCap):
		detail = "the audit log has reached its largest size, so nothing new is run: an operator has to raise audit.max_mib, have what was exported dropped (audit.when_full), or look after a sink that does not keep up"
	case errors.Is(cause, errFull):
		detail = "the audit log's disk is full, so nothing new is run: an operator has to free space or move the log to a larger disk"
	case errors.Is(cause, errBudget):
		detail = "the audit log's disk did not answer in time: try again; an operator should look at the disk"
	case errors.Is(cause, errStopped):
		detail = "the gateway is stopping: try again once it is back"
	case errors.Is(cause, errFileGone):
		detail = "a file of the audit log was removed or replaced: an operator has to restore it and restart the gateway"
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "audit_unavailable",
		Detail: detail, RetryAfter: time.Second, Err: cause,
	}
}

// errFileGone is in every error of a file that was removed or replaced.
var errFileGone = errors.New("a file of the log is gone")

// health is what is wrong with a log, if anything.
type health struct {
	origin time.Time // a point of the monotonic clock to count from; constant

	// writing is when the write that is under way began, as a duration since
	// origin; 0 when none is.
	writing atomic.Int64

	mu         sync.Mutex
	gone       error // a file was removed or replaced: stays
	segment    error // the last segment failed and no other could be begun
	checkpoint error
	space      error
	retention  error
	full       bool // no room for another decision
}

func (h *health) beginWrite() { h.writing.Store(int64(time.Since(h.origin)) | 1) }
func (h *health) endWrite()   { h.writing.Store(0) }

// set changes one of the faults and reports whether it began or ended.
func (h *health) set(field *error, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := (*field == nil) != (err == nil)
	*field = err
	return changed
}

func (h *health) noteSegment(err error) bool    { return h.set(&h.segment, err) }
func (h *health) noteCheckpoint(err error) bool { return h.set(&h.checkpoint, err) }
func (h *health) noteSpace(err error) bool      { return h.set(&h.space, err) }
func (h *health) noteRetention(err error) bool  { return h.set(&h.retention, err) }

// noteGone remembers that a file is gone, and reports whether it is the first.
func (h *health) noteGone(err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone != nil {
		return false
	}
	h.gone = err
	return true
}

func (h *health) goneError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

func (h *health) noteFull(full bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = full
}

// ready returns the worst of what is wrong.
func (h *health) ready(budget time.Duration) error {
	if since := h.writing.Load(); since != 0 && time.Since(h.origin)-time.Duration(since) > budget {
		return unavailable(errBudget)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.gone != nil:
		return unavailable(h.gone)
	case h.segment != nil:
		return unavailable(h.segment)
	case h.full:
		return unavailable(errors.Join(errFull, h.space))
	case h.checkpoint != nil:
		return unavailable(h.checkpoint)
	}
	return nil
}

// noteGone takes note of an error of watch, if it says that a file is gone.
func (l *Log) noteGone(err error) {
	if errors.Is(err, errFileGone) && l.health.noteGone(err) {
		l.cfg.Logger.Error("audit log file removed or replaced, restore it and restart", "error", err)
	}
}
