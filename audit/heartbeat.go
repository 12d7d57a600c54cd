package audit

import (
	"time"

	"github.com/execgate/execgate/execution"
)

// beat writes a heartbeat where nothing was written for long enough, so that the
// silence of a log is told from records that are gone.
func (w *writer) beat() {
	every := w.log.cfg.Heartbeat
	if every == 0 || time.Since(w.written) < every {
		return
	}
	held := w.log.Held()
	e := &entry{typ: frameRecord, done: make(chan struct{})}
	err := e.encode(execution.Record{Type: execution.RecordHeartbeat, Heartbeat: &execution.Heartbeat{
		EveryS: int64(every / time.Second), UptimeS: int64(time.Since(w.opened) / time.Second),
		Records: w.next - w.first, Open: len(w.open),
		Segments: held.Segments, Bytes: held.Bytes, Oldest: held.Oldest,
	}})
	if err != nil {
		w.log.cfg.Logger.Error("audit log cannot encode a heartbeat", "error", err)
		return
	}
	w.serve(e)
}
