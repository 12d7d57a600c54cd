package gateway

import (
	"context"
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
	RevokeFailed uint64 // leases that could not be taken back at once
}

type counters struct {
	started, denied, saturated, drained, engineFailed, auditFailed, revokeFailed atomic.Uint64
}

// refused counts an execution that was not admitted.
func (c *counters) refused(err error) {
	if execution.KindOf(err) == execution.KindSaturated {
		c.saturated.Add(1)
	} else {
		c.drained.Add(1)
	}
}

// Counts returns the counts as they are now.
func (s *Service) Counts() Counts {
	running, queued := s.admission.count()
	return Counts{
		Running:      running,
		Queued:       queued,
		Started:      s.counters.started.Load(),
		Denied:       s.counters.denied.Load(),
		Saturated:    s.counters.saturated.Load(),
		Drained:      s.counters.drained.Load(),
		EngineFailed: s.counters.engineFailed.Load(),
		AuditFailed:  s.counters.auditFailed.Load(),
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
