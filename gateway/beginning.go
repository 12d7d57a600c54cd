package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/execgate/execgate/execution"
)

// beginning is what the executor tells of the program's beginning, which is recorded.
// Nobody waits for that record: it is on the disk before the end is, or soon. Where it
// cannot be written the execution goes on, since its decision is there and its end will
// be.
func (s *Service) beginning(call Call, allowed Response) func(execution.Start) {
	return func(start execution.Start) {
		r := recordOf(execution.RecordStarted, call, allowed.ID)
		r.Started = &execution.Started{
			DecidedSeq: allowed.Records[0], Start: start, WaitMS: time.Since(allowed.decided).Milliseconds(),
		}
		s.records.appendLater(r, func(err error) {
			s.counters.startsLost.Add(1)
			s.log.Error("the beginning of an execution is not recorded", "execution", allowed.ID, "error", err)
		})
	}
}

// appendLater has r written without waiting for it. It does not panic.
func (w *records) appendLater(r execution.Record, lost func(error)) {
	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(context.Background(), "panic", "doing", "append record later", "panic", p)
			lost(errors.New("panic"))
		}
	}()
	r.Time = time.Now().UTC()
	w.recorder.AppendLater(r, lost)
}
