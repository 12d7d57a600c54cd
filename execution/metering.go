package execution

import (
	"cmp"
	"time"
)

// MeterKey is what usage is added up by.
type MeterKey struct {
	Day     string `json:"day"` // such as 2026-01-31, in UTC
	Tenant  string `json:"tenant"`
	Subject string `json:"subject"`
}

// Compare orders by day, tenant and subject.
func (k MeterKey) Compare(other MeterKey) int {
	return cmp.Or(cmp.Compare(k.Day, other.Day), cmp.Compare(k.Tenant, other.Tenant), cmp.Compare(k.Subject, other.Subject))
}

// Metered is what one principal used on one day, as the log has it.
type Metered struct {
	MeterKey
	// Outcomes counts what ran in a sandbox and ended, calls of tools among it.
	Outcomes   map[Outcome]int64 `json:"outcomes"`
	Executions int64             `json:"executions"` // the sum of Outcomes
	Denied     int64             `json:"denied"`     // decisions that denied
	ToolCalls  int64             `json:"tool_calls"` // that were allowed
	Sessions   int64             `json:"sessions"`   // that were opened
	WallMS     int64             `json:"wall_ms"`
	CPUMS      int64             `json:"cpu_ms"`
	// MemoryMiBMS is the sum of peak memory times wall time.
	MemoryMiBMS    int64 `json:"memory_mib_ms"`
	EgressRequests int64 `json:"egress_requests"`
	EgressBytes    int64 `json:"egress_bytes"`
	Leases         int64 `json:"leases"`
}

// Meter returns what r adds to usage; false where that is nothing. Day is that of the
// record's time.
func Meter(r Record) (Metered, bool) {
	m := Metered{MeterKey: MeterKey{Day: r.Time.UTC().Format(time.DateOnly), Tenant: OwnerOf(r)}}
	if r.Principal == nil {
		return m, false
	}
	m.Subject = r.Principal.Subject
	switch {
	case r.Decided != nil && r.Decided.Decision.Effect == EffectDeny:
		m.Denied = 1
	case r.Decided != nil && r.Decided.Decision.Allowed() && r.Decided.Action == ActionToolCall:
		m.ToolCalls = 1
	case r.Session != nil && r.Session.What == SessionOpened:
		m.Sessions = 1
	case r.Type == RecordLeaseIssued:
		m.Leases = 1
	case r.Ended != nil:
		u := r.Ended.Usage
		m.Outcomes, m.Executions = map[Outcome]int64{r.Ended.Outcome: 1}, 1
		m.WallMS, m.CPUMS, m.MemoryMiBMS = max(u.WallMS, 0), max(u.CPUMS, 0), max(u.PeakMemoryMiB, 0)*max(u.WallMS, 0)
		m.EgressRequests, m.EgressBytes = max(u.EgressRequests, 0), max(u.EgressBytes, 0)
	default:
		return m, false
	}
	return m, true
}

// Add adds what other says of the same key.
func (m *Metered) Add(other Metered) {
	if m.Outcomes == nil {
		m.Outcomes = map[Outcome]int64{}
	}
	for outcome, n := range other.Outcomes {
		m.Outcomes[outcome] += n
	}
	for _, sum := range []struct {
		to   *int64
		more int64
	}{
		{&m.Executions, other.Executions}, {&m.Denied, other.Denied}, {&m.ToolCalls, other.ToolCalls}, {&m.Sessions, other.Sessions},
		{&m.WallMS, other.WallMS}, {&m.CPUMS, other.CPUMS}, {&m.MemoryMiBMS, other.MemoryMiBMS},
		{&m.EgressRequests, other.EgressRequests}, {&m.EgressBytes, other.EgressBytes}, {&m.Leases, other.Leases},
	} {
		if *sum.to += sum.more; *sum.to < 0 { // never less for having used more
			*sum.to = 1<<63 - 1
		}
	}
}

// MeterQuery asks for usage. An empty field means all.
type MeterQuery struct {
	Tenant, Subject string
	Since, Until    string // days, both included
}

// Means reports whether the query asks for k.
func (q MeterQuery) Means(k MeterKey) bool {
	return (q.Tenant == "" || q.Tenant == k.Tenant) && (q.Subject == "" || q.Subject == k.Subject) &&
		(q.Since == "" || k.Day >= q.Since) && (q.Until == "" || k.Day <= q.Until)
}
