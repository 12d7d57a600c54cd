package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// loan is what one execution may be lent, and was.
type loan struct {
	id    string
	asked execution.Loan // who asked for it, and by which request
	until time.Time      // nothing is lent from then on
	tools map[string]*lease

	// mu guards what follows, and what it says in lease. It is held only for what is
	// quick; whoever holds a token's lock may take it, and not the other way round.
	mu     sync.Mutex
	closed bool // it was taken back: nothing more is lent
	tokens []*token
	going  bool // it is about to be forgotten
}

// lease is one credential of a loan.
type lease struct {
	loan       *loan
	token      *token // nil: it is not from Vault
	credential execution.Credential
	mount      Mount
	path       string // at Vault, the mount included

	// Guarded by the lock of the token.
	vaultID string // of the lease at Vault; empty: it has none
	gone    bool   // it was ended at Vault by itself
	told    bool   // its end is recorded

	// Guarded by the loan's mu.
	issued bool // and recorded; only then it has what follows
	over   bool // it is not lent any more
	public execution.Lease
	fields map[string]execution.Secret
	used   int64
}

// The codes of why a credential that an execution names has no value for it.
const (
	CodeNotLent = "credential_not_lent"
	CodeEnded   = "lease_ended"
	CodeExpired = "lease_expired"
	CodeUsedUp  = "lease_used_up"
)

// none is the error of a use that is not allowed.
func none(code, tool, message string) error {
	return &execution.Error{Kind: execution.KindDenied, Code: code, Reasons: []execution.Reason{{
		Code: code, Message: fmt.Sprintf("The credential of tool %.200q %s.", tool, message), Rule: "gateway.vault",
		Remediation: "Run again what needs the credential, with a policy that grants it for as long and as often as that takes.",
	}}}
}

func notLent(tool string) error {
	return none(CodeNotLent, tool, "was not lent to this execution")
}

// reserve counts one use, or refuses it. A use that comes to nothing is given back
// by giveBack.
func (l *lease) reserve() error {
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if most := l.credential.MaxUses; most > 0 && l.used >= most {
		return none(CodeUsedUp, l.credential.Tool, fmt.Sprintf("was used %d times, and more is not allowed", most))
	}
	l.used++
	return nil
}

func (l *lease) giveBack() {
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	l.used--
}

// usable says why the lease has no value, or will not get one. It is called with the
// loan's mu held.
func (l *lease) usable() error {
	now := time.Now()
	switch {
	case l.loan.closed, l.public.Revoked:
		return none(CodeEnded, l.credential.Tool, "was taken back")
	case l.over, !now.Before(l.loan.until), l.issued && !now.Before(l.public.Expires):
		return expired(l.credential.Tool)
	}
	return nil
}

func expired(tool string) error { return none(CodeExpired, tool, "has expired") }

// value returns what was lent, if it still is.
func (l *lease) value() (map[string]execution.Secret, execution.Lease, error) {
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, execution.Lease{}, err
	}
	return maps.Clone(l.fields), l.public, nil
}

func (l *lease) isIssued() bool {
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	return l.issued
}

// exposed reports whether the program itself is given the value.
func exposed(c execution.Credential) bool {
	return c.Inject == execution.InjectFile || c.Inject == execution.InjectEnv
}

// expose has what the program itself is given issued, in the order that was asked for.
// After an error nothing of it may be used.
func (n *loan) expose(ctx context.Context, credentials []execution.Credential, issue func(context.Context, *lease) error) (execution.Lent, error) {
	var lent execution.Lent
	for _, c := range credentials {
		if !exposed(c) {
			continue
		}
		l := n.tools[c.Tool]
		if err := issue(ctx, l); err != nil {
			return execution.Lent{}, err
		}
		fields, public, err := l.value()
		if err != nil {
			return execution.Lent{}, err
		}
		lent.Leases = append(lent.Leases, public)
		lent.Exposed = append(lent.Exposed, execution.Exposed{Credential: c, Fields: fields})
	}
	return lent, nil
}

// use is one use of what was lent for tool, which is issued if it was not yet. A nil
// loan has nothing.
func (n *loan) use(ctx context.Context, tool string, issue func(context.Context, *lease) error) (map[string]execution.Secret, execution.Lease, error) {
	if n == nil || n.tools[tool] == nil {
		return nil, execution.Lease{}, notLent(tool)
	}
	l := n.tools[tool]
	if err := l.reserve(); err != nil {
		return nil, execution.Lease{}, err
	}
	err := issue(ctx, l)
	if err == nil {
		var fields map[string]execution.Secret
		var public execution.Lease
		if fields, public, err = l.value(); err == nil {
			return fields, public, nil
		}
	}
	l.giveBack()
	return nil, execution.Lease{}, err
}

// change is the body of a record about the lease.
func (l *lease) change() execution.LeaseChange {
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	change := execution.LeaseChange{
		Lease: l.public, Engine: l.mount.Engine, Mount: l.mount.Path,
		Path: strings.TrimPrefix(l.path, l.mount.Path+"/"), Inject: l.credential.Inject,
	}
	if l.token != nil {
		change.Accessor = l.token.entry.Accessor
	}
	return change
}

// leases are those of the loan that were issued, as they are now, by their tools.
func (n *loan) leases() []execution.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []execution.Lease
	for _, tool := range slices.Sorted(maps.Keys(n.tools)) {
		if l := n.tools[tool]; l.issued {
			out = append(out, l.public)
		}
	}
	return out
}

// close has nothing more lent.
func (n *loan) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
}

func (n *loan) all() []*token {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.tokens)
}

// record is one about the lease, under the execution's name.
func (l *lease) record(kind execution.RecordType, change execution.LeaseChange) execution.Record {
	asked := l.loan.asked
	asked.Principal.Roles = slices.Clone(asked.Principal.Roles)
	return execution.Record{
		Type: kind, Time: time.Now().UTC(), Execution: l.loan.id, Lease: &change,
		Principal: &asked.Principal, RequestID: asked.RequestID, TraceID: asked.TraceID,
	}
}

// leaseID names a lease: by its name at Vault, or where it has none there by one
// that is the same whenever it is asked for, and opens nothing.
func leaseID(vaultID, accessor, tool string) string {
	if vaultID != "" && len(vaultID) <= execution.MaxRecordLeaseID {
		return vaultID
	}
	sum := sha256.Sum256([]byte(accessor + "\x00" + tool + "\x00" + vaultID))
	return "token/" + hex.EncodeToString(sum[:16])
}

// clip cuts a text to at most n bytes.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}
