package gateway

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/execgate/execgate/execution"
)

// Counts is what a Service has done since it was made.
type Counts struct {
	Running int // under way now
	Queued  int // waiting for a slot now

	Started      uint64 // allowed, and recorded as such
	Denied       uint64
	Saturated    uint64 // refused because as many ran as may
	Drained      uint64 // refused because the gateway was shutting down
	EngineFailed uint64 // allowed, and failed by us
	AuditFailed  uint64 // refused, or withheld, because a record could not be written
	StartsLost   uint64 // beginnings of executions that could not be recorded
	RevokeFailed uint64 // leases that could not be taken back at once

	// Decisions are those that are recorded, Ended the executions that were allowed
	// and came to an end, and Refused, by code, what was not even decided, or not
	// begun, for want of room or because of the shutdown. What is usual is there
	// also where it is zero.
	Decisions map[Decided]uint64
	Ended     map[Ended]uint64
	Refused   map[string]uint64
	// Approvals counts what was recorded of approvals, by the type of the record.
	Approvals map[string]uint64
	// Webhooks counts deliveries, by what became of them.
	Webhooks map[string]uint64
}

// Decided is one kind of decision.
type Decided struct {
	Action execution.Action
	Effect execution.Effect
}

// Ended is one kind of end of an execution. Warm is execution.Usage's.
type Ended struct {
	Outcome execution.Outcome
	Warm    bool
}

// outcomes are those that an execution can come to here.
var outcomes = []execution.Outcome{
	execution.OutcomeCancelled, execution.OutcomeTimedOut, execution.OutcomeOutOfMemory, execution.OutcomeOutputLimit,
	execution.OutcomePIDsLimit, execution.OutcomeDiskLimit, execution.OutcomeKilled, execution.OutcomeExited,
	execution.OutcomeEngineFailed,
}

// approvalRecords are the types of records about approvals.
var approvalRecords = []execution.RecordType{
	execution.RecordApprovalRequested, execution.RecordApprovalApproved, execution.RecordApprovalDenied,
	execution.RecordApprovalExpired, execution.RecordApprovalVoided,
}

// usual are the counts that are known to be possible, at zero.
func usual() (decisions map[Decided]uint64, ended map[Ended]uint64, refused map[string]uint64) {
	decisions, ended = map[Decided]uint64{}, map[Ended]uint64{}
	for _, action := range []execution.Action{execution.ActionExecute, execution.ActionSession, execution.ActionToolCall} {
		decisions[Decided{action, execution.EffectAllow}], decisions[Decided{action, execution.EffectDeny}] = 0, 0
	}
	decisions[Decided{execution.ActionExecute, execution.EffectRequireApproval}] = 0
	for _, outcome := range outcomes {
		ended[Ended{outcome, false}], ended[Ended{outcome, true}] = 0, 0
	}
	delete(ended, Ended{execution.OutcomeEngineFailed, true}) // there is no Usage to say so
	refused = map[string]uint64{"executions_saturated": 0, "queue_full": 0, "executions_full": 0, "sessions_saturated": 0, "draining": 0}
	return decisions, ended, refused
}

// tally counts by key. Its keys must be few.
type tally[K comparable] struct {
	mu     sync.Mutex
	counts map[K]uint64
}

func (t *tally[K]) add(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[K]uint64{}
	}
	t.counts[key]++
}

// copyTo writes the counts into m.
func (t *tally[K]) copyTo(m map[K]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.Copy(m, t.counts)
}

type counters struct {
	started, denied, saturated, drained, engineFailed, auditFailed, startsLost, revokeFailed atomic.Uint64

	decisions tally[Decided]
	ends      tally[Ended]
	refusals  tally[string]
	approvals tally[string]
}

// refused counts what was not admitted, if that is what err says.
func (c *counters) refused(err error) {
	e, ok := errors.AsType[*execution.Error](err)
	switch {
	case !ok:
		return
	case e.Kind == execution.KindSaturated:
		c.saturated.Add(1)
	case e.Code == "draining":
		c.drained.Add(1)
	default:
		return
	}
	c.refusals.add(e.Code)
}

// ended counts an execution that was allowed and has come to an end.
func (c *counters) ended(result execution.Result, err error) {
	if err != nil {
		c.ends.add(Ended{Outcome: execution.OutcomeEngineFailed})
		return
	}
	c.ends.add(Ended{result.Outcome, result.Usage.Warm})
}

// Counts returns the counts as they are now.
func (s *Service) Counts() Counts {
	running, queued := s.admission.count()
	decisions, ended, refused := usual()
	s.counters.decisions.copyTo(decisions)
	s.counters.ends.copyTo(ended)
	s.counters.refusals.copyTo(refused)
	approvals := map[string]uint64{}
	for _, kind := range approvalRecords {
		approvals[string(kind)] = 0
	}
	s.counters.approvals.copyTo(approvals)
	return Counts{
		Approvals: approvals, Webhooks: s.webhooks.Counts(),
		Decisions: decisions, Ended: ended, Refused: refused,
		Running:      running,
		Queued:       queued,
		Started:      s.counters.started.Load(),
		Denied:       s.counters.denied.Load(),
		Saturated:    s.counters.saturated.Load(),
		Drained:      s.counters.drained.Load(),
		EngineFailed: s.counters.engineFailed.Load(),
		AuditFailed:  s.counters.auditFailed.Load(),
		StartsLost:   s.counters.startsLost.Load(),
		RevokeFailed: s.counters.revokeFailed.Load(),
	}
}

// Ready reports whether the service takes work: it is not draining, and its last
// record was written, or failed more than 30 s ago.
func (s *Service) Ready(ctx context.Context) error {
	if s.admission.refusing() {
		return &execution.Error{Kind: execution.KindUnavailable, Code: "draining", Detail: "the gateway is shutting down"}
	}
	return s.records.ready(ctx)
}
