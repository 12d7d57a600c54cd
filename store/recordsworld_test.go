package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// epoch is when the logs of these tests begin.
var epoch = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)

// invention makes records of every kind that is found by something.
type invention struct {
	*rand.Rand
	seq     uint64
	tenants int
	step    time.Duration // between two records
	skips   bool          // some numbers are void, and some clocks step back
}

func newInvention(seed uint64) *invention {
	return &invention{Rand: rand.New(rand.NewPCG(seed, 1)), tenants: 3, step: 40 * time.Second, skips: true}
}

func (v *invention) pick(values ...string) string { return values[v.IntN(len(values))] }

// record is the next one.
func (v *invention) record() execution.Record {
	if v.skips && v.IntN(50) == 0 {
		v.seq += uint64(v.IntN(40))
	}
	r := execution.Record{Seq: v.seq, Time: epoch.Add(time.Duration(v.seq) * v.step)}
	if v.skips && v.IntN(30) == 0 {
		r.Time = r.Time.Add(-time.Duration(v.IntN(86400)) * time.Second)
	}
	v.seq++
	id := fmt.Sprintf("ex_%026d", v.seq/4)
	r.Execution = id
	r.Principal = &execution.Principal{
		Tenant: fmt.Sprintf("tenant-%d", v.IntN(v.tenants)), Subject: fmt.Sprintf("ak_%d", v.IntN(6)),
		Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey,
	}
	host := v.pick("api.github.com", "pypi.org", "evil.example\x1b[2J\n", "a.example")
	tool := v.pick("github", "jira", "db")
	switch v.IntN(9) {
	case 0, 1:
		r.Type = execution.RecordDecided
		r.Decided = &execution.Decided{
			Action: execution.Action(v.pick("execute", "tool_call", "session")), Session: v.pick("", "se_1", "se_2"),
			Tool: v.pick("", tool), Tools: []string{tool},
			Network: []execution.Destination{{Host: host, Port: 443}},
			Decision: execution.Decision{
				Effect:   execution.Effect(v.pick("allow", "allow", "deny", "require_approval")),
				Reasons:  []execution.Reason{{Rule: v.pick("network.granted", "budgets.cpu"), Code: v.pick("network_not_granted", "budget")}},
				Warnings: []execution.Reason{{Rule: v.pick("", "tools.granted"), Code: v.pick("", "tool_not_granted")}},
			},
		}
	case 2, 3:
		r.Type = execution.RecordEnded
		r.Ended = &execution.Ended{
			Outcome: execution.Outcome(v.pick("exited", "exited", "timed_out", "engine_failed")), Error: v.pick("", "engine_unavailable"),
			Usage:  execution.Usage{WallMS: v.Int64N(1000), CPUMS: v.Int64N(1000), PeakMemoryMiB: v.Int64N(256), EgressRequests: v.Int64N(3), EgressBytes: v.Int64N(1 << 20)},
			Leases: []execution.Lease{{Tool: tool, ID: "l"}},
		}
	case 4:
		r.Type = execution.RecordEgressDecided
		r.EgressDecided = &execution.EgressDecided{Host: host, Port: 443, Effect: execution.Effect(v.pick("allow", "deny")), Code: v.pick("", "network_not_granted"), Binding: v.pick("", tool)}
	case 5:
		r.Type = execution.RecordLeaseIssued
		r.Lease = &execution.LeaseChange{Lease: execution.Lease{Tool: tool, ID: "l"}}
	case 6:
		r.Type = execution.RecordSession
		r.Session = &execution.SessionChange{ID: v.pick("se_1", "se_2"), What: execution.SessionEvent(v.pick("opened", "ended"))}
		r.Execution = ""
	case 7:
		r.Type, r.Execution = execution.RecordKeyCreated, ""
		r.Key = &execution.KeyChange{ID: v.pick("ak_1", "ak_2"), Tenant: "tenant-1"}
		if v.IntN(2) == 0 {
			r.Principal = nil
		}
	case 8:
		r.Type, r.Execution, r.Principal = execution.RecordAuthenticationFailed, "", nil
		r.AuthenticationFailed = &execution.AuthenticationFailed{Reason: "revoked", KeyID: v.pick("", "ak_2"), Remote: "192.0.2.1"}
	}
	return r
}

func (v *invention) records(n int) []execution.Record {
	all := make([]execution.Record, n)
	for i := range all {
		all[i] = v.record()
	}
	return all
}

// filter is one that may find something in records.
func (v *invention) filter(records []execution.Record) execution.RecordFilter {
	like := records[v.IntN(len(records))]
	f := execution.RecordFilter{Values: map[execution.TermKind]string{}}
	for _, kind := range execution.TermKinds() {
		if v.IntN(5) != 0 {
			continue
		}
		if values := valuesOf(like, kind); len(values) > 0 {
			f.Values[kind] = v.pick(values...)
		} else if v.IntN(4) == 0 {
			f.Values[kind] = "none such"
		}
	}
	if v.IntN(3) == 0 {
		f.Since = like.Time.Add(-time.Duration(v.IntN(3600*6)) * time.Second)
	}
	if v.IntN(3) == 0 {
		f.Until = like.Time.Add(time.Duration(v.IntN(3600*6)) * time.Second)
	}
	if v.IntN(4) == 0 {
		f.From = like.Seq - min(like.Seq, v.Uint64N(500))
	}
	if v.IntN(4) == 0 {
		f.Before = like.Seq + 1 + v.Uint64N(500)
	}
	return f
}

// valuesOf says once more, and plainly, what a record has of a kind.
func valuesOf(r execution.Record, kind execution.TermKind) (values []string) {
	switch kind {
	case execution.TermTenant:
		switch {
		case r.Key != nil:
			values = append(values, r.Key.Tenant)
		case r.Principal != nil:
			values = append(values, r.Principal.Tenant)
		default:
			values = append(values, "default")
		}
	case execution.TermSubject:
		if r.Principal != nil {
			values = append(values, r.Principal.Subject)
		}
	case execution.TermType:
		values = append(values, string(r.Type))
	case execution.TermExecution:
		values = append(values, r.Execution)
	case execution.TermKey:
		if r.Key != nil {
			values = append(values, r.Key.ID)
		}
		if r.AuthenticationFailed != nil {
			values = append(values, r.AuthenticationFailed.KeyID)
		}
	case execution.TermSession:
		if r.Session != nil {
			values = append(values, r.Session.ID)
		}
		if r.Decided != nil {
			values = append(values, r.Decided.Session)
		}
	}
	if d := r.Decided; d != nil {
		switch kind {
		case execution.TermTool:
			values = append(append(values, d.Tool), d.Tools...)
		case execution.TermEffect:
			values = append(values, string(d.Decision.Effect))
		case execution.TermHost:
			values = append(values, d.Network[0].Host)
		case execution.TermRule:
			values = append(values, d.Decision.Reasons[0].Rule, d.Decision.Warnings[0].Rule)
		case execution.TermCode:
			values = append(values, d.Decision.Reasons[0].Code, d.Decision.Warnings[0].Code)
		}
	}
	if e := r.Ended; e != nil {
		switch kind {
		case execution.TermOutcome:
			values = append(values, string(e.Outcome))
		case execution.TermCode:
			values = append(values, e.Error)
		case execution.TermTool:
			values = append(values, e.Leases[0].Tool)
		}
	}
	if e := r.EgressDecided; e != nil {
		switch kind {
		case execution.TermHost:
			values = append(values, e.Host)
		case execution.TermEffect:
			values = append(values, string(e.Effect))
		case execution.TermCode:
			values = append(values, e.Code)
		case execution.TermTool:
			values = append(values, e.Binding)
		}
	}
	if r.Lease != nil && kind == execution.TermTool {
		values = append(values, r.Lease.Tool)
	}
	if r.AuthenticationFailed != nil && kind == execution.TermCode {
		values = append(values, r.AuthenticationFailed.Reason)
	}
	return slices.DeleteFunc(values, func(value string) bool { return value == "" })
}

// means is the obvious form of RecordFilter.Matches.
func means(f execution.RecordFilter, r execution.Record) bool {
	for kind, value := range f.Values {
		if value != "" && !slices.Contains(valuesOf(r, kind), value) {
			return false
		}
	}
	return r.Seq >= f.From && (f.Before == 0 || r.Seq < f.Before) &&
		(f.Since.IsZero() || !r.Time.Before(f.Since)) && (f.Until.IsZero() || r.Time.Before(f.Until))
}

// scan is the obvious form of Search: all there is, oldest first.
func scan(f execution.RecordFilter, records []execution.Record) []uint64 {
	seqs := []uint64{}
	for _, r := range records {
		if means(f, r) {
			seqs = append(seqs, r.Seq)
		}
	}
	return seqs
}
