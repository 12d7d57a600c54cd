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

// Materials keeps what policy obliges the gateway to keep. What a method has done is
// durable when it returns. Their errors are of KindUnavailable.
type Materials interface {
	// HoldRequest keeps the decision, until a time of its own where that is not zero,
	// and with it the request where that is not nil.
	HoldRequest(ctx context.Context, in DecidedInput, until time.Time, request []byte) error
	// HoldOutput keeps what came of it as HoldRequest has kept what was asked.
	HoldOutput(ctx context.Context, in DecidedInput, until time.Time, output []byte) error
}

// keep hands a decision that is recorded to inputs, where there are any and policy
// was asked at all.
func keep(ctx context.Context, inputs Inputs, log *slog.Logger, in DecidedInput) {
	if inputs == nil || in.Asked == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "doing", "keep input", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	inputs.Keep(in)
}

func decidedInput(seq uint64, call Call, q execution.Question, d execution.Decision) DecidedInput {
	return DecidedInput{
		Seq: seq, ID: q.ID, Principal: call.Principal, RequestID: call.RequestID, TraceID: call.TraceID, Time: q.Time, Asked: d.Asked,
	}
}
