package execution

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// TermKind says what a RecordTerm is about. Its values are stored: they never change.
type TermKind string

// The kinds of terms that records are found by.
const (
	TermTenant    TermKind = "tenant" // whose the record is: see OwnerOf
	TermSubject   TermKind = "subject"
	TermType      TermKind = "type"
	TermTool      TermKind = "tool"
	TermEffect    TermKind = "effect"
	TermOutcome   TermKind = "outcome"
	TermRule      TermKind = "rule" // id of a rule that decided, warned, or is flipped
	TermCode      TermKind = "code" // of a reason or a fault
	TermHost      TermKind = "host"
	TermExecution TermKind = "execution"
	TermSession   TermKind = "session"
	TermKey       TermKind = "key" // id of the API key that the record is about
)

// TermKinds lists every kind, in the order in which filters are told.
func TermKinds() []TermKind {
	return []TermKind{TermTenant, TermSubject, TermType, TermTool, TermEffect, TermOutcome, TermRule, TermCode,
		TermHost, TermExecution, TermSession, TermKey}
}

// RecordTerm is one thing that a record can be found by. A Value that is longer than
// maxTermValue stands as its digest.
type RecordTerm struct {
	Kind  TermKind
	Value string
}

// maxTermValue is the longest value that stands as it is, in bytes.
const maxTermValue = 256

// termOf makes a term of any value.
func termOf(kind TermKind, value string) RecordTerm {
	if len(value) > maxTermValue {
		sum := sha256.Sum256([]byte(value))
		value = "\x00" + hex.EncodeToString(sum[:])
	}
	return RecordTerm{kind, value}
}

// TenantOperator is the tenant of those who run the gateway, and of the records
// that are nobody else's.
const TenantOperator = "default"

// OwnerOf returns the tenant whose record r is: TenantOf, and of a record that is no
// tenant's TenantOperator.
func OwnerOf(r Record) string { return cmp.Or(TenantOf(r), TenantOperator) }

// TenantOf returns the tenant whose record r is: that of the key or of the tenant's own
// policy that it is about, whoever changed it, and else that of its principal. It is empty
// where the record is no tenant's.
func TenantOf(r Record) string {
	switch {
	case r.Key != nil && r.Key.Tenant != "":
		return r.Key.Tenant
	case r.Policy != nil && r.Policy.Tenant != "":
		return r.Policy.Tenant
	case r.Principal != nil:
		return r.Principal.Tenant
	}
	return ""
}

// TermsOf returns what r is found by, each term once.
func TermsOf(r Record) []RecordTerm {
	t := make(terms, 0, 8)
	t.add(TermTenant, OwnerOf(r))
	t.add(TermType, string(r.Type))
	t.add(TermExecution, r.Execution)
	if r.Principal != nil {
		t.add(TermSubject, r.Principal.Subject)
	}
	if d := r.Decided; d != nil {
		t.add(TermSession, d.Session)
		t.add(TermEffect, string(d.Decision.Effect))
		t.add(TermTool, d.Tool)
		t.add(TermTool, d.Tools...)
		for _, to := range d.Network {
			t.add(TermHost, to.Host)
		}
		t.reasons(d.Decision.Reasons, d.Decision.Warnings, d.Decision.Shadowed)
	}
	if e := r.Ended; e != nil {
		t.add(TermOutcome, string(e.Outcome))
		t.add(TermCode, e.Error)
		for _, lease := range e.Leases {
			t.add(TermTool, lease.Tool)
		}
	}
	if e := r.EgressDecided; e != nil {
		t.add(TermHost, e.Host)
		t.add(TermEffect, string(e.Effect))
		t.add(TermCode, e.Code)
		t.add(TermTool, e.Binding)
	}
	if e := r.EgressEnded; e != nil {
		t.add(TermCode, e.Error)
	}
	if l := r.Lease; l != nil {
		t.add(TermTool, l.Tool)
		t.add(TermCode, l.Error)
	}
	if a := r.AuditRead; a != nil {
		t.add(TermEffect, string(a.Effect))
		t.reasons(a.Reasons, a.Warnings)
	}
	if s := r.Session; s != nil {
		t.add(TermSession, s.ID)
	}
	if f := r.AuthenticationFailed; f != nil {
		t.add(TermKey, f.KeyID)
		t.add(TermCode, f.Reason)
	}
	if k := r.Key; k != nil {
		t.add(TermKey, k.ID)
	}
	if f := r.Flip; f != nil {
		t.add(TermRule, f.WasRules...)
		t.add(TermRule, f.IsRules...)
	}
	return t
}

type terms []RecordTerm

func (t *terms) add(kind TermKind, values ...string) {
	for _, value := range values {
		if term := termOf(kind, value); value != "" && !slices.Contains(*t, term) {
			*t = append(*t, term)
		}
	}
}

func (t *terms) reasons(lists ...[]Reason) {
	for _, reasons := range lists {
		for _, reason := range reasons {
			t.add(TermRule, reason.Rule)
			t.add(TermCode, reason.Code)
		}
	}
}

// RecordFilter says which records are meant: those that hold every value it has, were
// written in its time, and have a number in its range. The zero one means all.
type RecordFilter struct {
	Values map[TermKind]string
	Since  time.Time // from it on; zero: from the beginning
	Until  time.Time // before it; zero: no end
	From   uint64    // numbers from it on
	Before uint64    // numbers below it; zero: no bound
}

// Terms returns what a record must be found by.
func (f RecordFilter) Terms() []RecordTerm {
	t := terms{}
	for _, kind := range TermKinds() {
		t.add(kind, f.Values[kind])
	}
	return t
}

// InTime reports whether at is in the filter's time.
func (f RecordFilter) InTime(at time.Time) bool {
	return (f.Since.IsZero() || !at.Before(f.Since)) && (f.Until.IsZero() || at.Before(f.Until))
}

// Matches reports whether r is meant.
func (f RecordFilter) Matches(r Record) bool {
	if r.Seq < f.From || f.Before != 0 && r.Seq >= f.Before || !f.InTime(r.Time) {
		return false
	}
	has := TermsOf(r)
	for _, term := range f.Terms() {
		if !slices.Contains(has, term) {
			return false
		}
	}
	return true
}

// RecordQuery asks for some of the records that a filter means.
type RecordQuery struct {
	Filter RecordFilter
	Oldest bool // oldest first; else newest first
	Most   int  // records, at least one
}

// RecordPage is an answer to a RecordQuery.
type RecordPage struct {
	Records []Record
	// More says that there are further ones now. Next is where to go on: the From of
	// a query for the oldest first, the Before of one for the newest.
	More bool
	Next uint64
	// Indexed is the first number that could not be found yet.
	Indexed uint64
}
