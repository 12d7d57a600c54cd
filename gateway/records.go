package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// defaultRecordBudget is how long one record may take to become durable, unless the
// configuration says otherwise.
const defaultRecordBudget = 2 * time.Second

// unreadyAfterFailure is how long the service calls itself unready after a
// record failed, unless one goes well in the meantime or the log itself says
// that it works again. It then offers itself, because nothing but work shows
// whether a log that says nothing has recovered.
const unreadyAfterFailure = 30 * time.Second

// records writes the records of executions.
type records struct {
	recorder Recorder
	inputs   Inputs // nil: none
	log      *slog.Logger
	// budget is how long one record may take to become durable. It does not shrink
	// with the request: a caller that hangs up does not cost a record.
	budget time.Duration
	// failed is when an append last failed, in Unix nanoseconds; zero where the
	// last one went well.
	failed atomic.Int64
}

// append makes r durable. Its error is KindUnavailable, audit_unavailable, or of
// KindTooLarge where the log takes no record of that size: that is a fault of
// the record, and says nothing of the log.
func (w *records) append(ctx context.Context, r execution.Record) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.budget)
	defer cancel()
	r.Time = time.Now().UTC()
	seq, err := w.try(ctx, r)
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindTooLarge {
		return 0, &execution.Error{Kind: e.Kind, Code: e.Code, Detail: e.Detail, Err: fmt.Errorf("append %s record: %w", r.Type, err)}
	}
	if err != nil {
		w.failed.Store(time.Now().UnixNano())
		return 0, &execution.Error{
			Kind: execution.KindUnavailable, Code: "audit_unavailable",
			Detail:     "the audit log cannot be written, and nothing is done that is not recorded",
			RetryAfter: 5 * time.Second, Err: fmt.Errorf("append %s record: %w", r.Type, err),
		}
	}
	w.failed.Store(0)
	return seq, nil
}

func (w *records) try(ctx context.Context, r execution.Record) (seq uint64, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(ctx, "panic", "doing", "append record", "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	return w.recorder.Append(ctx, r)
}

func (w *records) ready(ctx context.Context) error {
	if at := w.failed.Load(); at != 0 && time.Since(time.Unix(0, at)) < unreadyAfterFailure {
		if log, ok := w.recorder.(Prober); ok && log.Ready(ctx) == nil {
			w.failed.CompareAndSwap(at, 0) // not a failure since
			return nil
		}
		return &execution.Error{Kind: execution.KindUnavailable, Code: "audit_unavailable", Detail: "a record could not be written"}
	}
	return nil
}

// decided records d, and has its input kept, unless that is held anyhow.
func (w *records) decided(ctx context.Context, call Call, q execution.Question, d execution.Decision, held bool) (uint64, error) {
	r := call.Request
	body := &execution.Decided{
		Action: q.Action, Session: r.Session,
		RequestSHA256: q.RequestSHA256,
		Language:      r.Language,
		Image:         cmp.Or(q.Image.Name, r.Image),
		EnvNames:      slices.Sorted(maps.Keys(r.Env)),
		Network:       r.Network,
		Tools:         r.Tools,
		Metadata:      r.Metadata,
		Decision:      d,
	}
	if q.Action == execution.ActionToolCall {
		body.Tool, body.ArgsSHA256, body.Parent = q.Tool.Name, q.Tool.ArgsSHA256, call.tool.parent
	}
	if r.Code != "" {
		body.CodeSHA256, body.CodeBytes = execution.HexSHA256([]byte(r.Code)), len(r.Code)
	}
	if w.inputs != nil && d.Asked != nil {
		body.InputSHA256, body.AnswerSHA256 = execution.HexSHA256(d.Asked.Input), execution.HexSHA256(d.Asked.Answer)
	}
	record := recordOf(execution.RecordDecided, call, q.ID)
	if q.Action == execution.ActionSession {
		record.Execution, body.Session = "", q.ID
	}
	record.Decided = body
	seq, err := w.append(ctx, record)
	if err == nil && !held {
		keep(ctx, w.inputs, w.log, decidedInput(seq, call, q, d))
	}
	return seq, err
}

// session records what became of a session, or was done to it.
func (w *records) session(ctx context.Context, call Call, change execution.SessionChange) (uint64, error) {
	record := recordOf(execution.RecordSession, call, "")
	record.Session = &change
	return w.append(ctx, record)
}

func (w *records) ended(ctx context.Context, call Call, id string, decided uint64, response Response, runErr error) (uint64, error) {
	result := response.Result
	body := &execution.Ended{
		DecidedSeq: decided, Outcome: result.Outcome, ExitCode: result.ExitCode, Status: result.Status,
		Usage: boundUsage(result.Usage), Leases: boundLeases(response.Leases),
	}
	if runErr != nil {
		body.Outcome, body.ExitCode, body.Status, body.Error = execution.OutcomeEngineFailed, nil, 0, faultCode(runErr)
	} else {
		body.StdoutSHA256, body.StderrSHA256 = digest(result.Stdout), digest(result.Stderr)
		body.ResultSHA256 = digest(result.Value)
		all := hashes(result.Artifacts)
		body.ArtifactsCount, body.ArtifactsSHA256 = len(all), execution.ArtifactsSHA256(all)
		body.Artifacts = boundArtifacts(all)
	}
	record := recordOf(execution.RecordEnded, call, id)
	record.Ended = body
	return w.append(ctx, record)
}

// recordOf begins a record about call. The principal is copied, so that a record
// on its way to the disk shares nothing with the request.
func recordOf(kind execution.RecordType, call Call, id string) execution.Record {
	principal := call.Principal
	principal.Roles = slices.Clone(principal.Roles)
	return execution.Record{
		Type: kind, Execution: id, Principal: &principal, RequestID: call.RequestID, TraceID: call.TraceID,
	}
}

func digest(content []byte) string {
	if len(content) == 0 {
		return ""
	}
	return execution.HexSHA256(content)
}

func hashes(artifacts []execution.Artifact) []execution.ArtifactHash {
	all := make([]execution.ArtifactHash, len(artifacts))
	for i, a := range artifacts {
		all[i] = execution.ArtifactHash{Path: a.Path, Size: a.Size, SHA256: execution.HexSHA256(a.Content)}
	}
	return all
}

// faultCode names a fault of ours in a record: a code, never a message.
func faultCode(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok {
		return cut(cmp.Or(e.Code, string(e.Kind)), maxPolicyName)
	}
	return string(execution.KindInternal)
}

// Unended is an execution that was decided and has no end in the log, because
// the gateway that ran it died.
type Unended struct {
	Execution  string
	DecidedSeq uint64
	Principal  execution.Principal
	RequestID  string
	TraceID    string
}

// recoverTimeout bounds what is put right in memory at start.
const recoverTimeout = time.Minute

// CloseUnended records the end of executions that a crash left open, with the
// outcome unknown_crash, has those that can be asked for say the same, and ends
// the sessions that were open. It is
// called at start, with whatever is open, before new work is taken and after
// what they left behind was removed. It goes on past a failure and returns all
// of them joined.
func (s *Service) CloseUnended(ctx context.Context, open []Unended) error {
	var errs []error
	lost := map[string][]byte{}
	for _, u := range open {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		call := Call{Principal: u.Principal, RequestID: u.RequestID, TraceID: u.TraceID}
		crashed := Response{Result: execution.Result{Outcome: execution.OutcomeUnknownCrash}}
		ended, err := s.records.ended(ctx, call, u.Execution, u.DecidedSeq, crashed, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("close execution %s: %w", u.Execution, err))
		}
		crashed.ID, crashed.Decision.Effect = u.Execution, execution.EffectAllow // what is denied is not open
		crashed.Records = []uint64{u.DecidedSeq, ended}
		if lost[u.Execution], err = encodeExecution(crashed); err != nil {
			errs = append(errs, fmt.Errorf("close execution %s: %w", u.Execution, err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	if err := s.closeLeft(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := s.executions.Recover(ctx, lost, time.Now().Add(s.keep)); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.voidInterrupted(ctx))
	return errors.Join(errs...)
}
