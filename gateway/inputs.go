package gateway

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/execgate/execgate/execution"
)

// Inputs keeps what policy was asked, so that decisions can be replayed.
type Inputs interface {
	// Keep is told of a decision once its record is durable. It returns at once,
	// whatever becomes of it: no request waits for its replay.
	Keep(in DecidedInput)
}

// DecidedInput is a decision with what it was made of.
type DecidedInput struct {
	Seq       uint64 // of the decision's record
	ID        string // of the execution, or of the session
	Principal execution.Principal
	RequestID string
	TraceID   string
	Time      time.Time
	Asked     *execution.Asked // not nil; must not be changed
}

// keep hands a decision that is recorded to inputs, where there are any and policy
// was asked at all.
func keep(ctx context.Context, inputs Inputs, log *slog.Logger, seq uint64, call Call, q execution.Question, d execution.Decision) {
	if inputs == nil || d.Asked == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "doing", "keep input", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	inputs.Keep(DecidedInput{
		Seq: seq, ID: q.ID, Principal: call.Principal, RequestID: call.RequestID, TraceID: call.TraceID, Time: q.Time, Asked: d.Asked,
	})
}
