package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// Lend lends every credential of the loan, or none. What the program itself is given
// is read now; of the rest it is only found whether it could be, and Value reads it.
// A credential that no mount has is refused with KindDenied.
func (v *Vault) Lend(ctx context.Context, asked execution.Loan) (execution.Lent, error) {
	n, err := v.newLoan(asked)
	if err != nil || len(n.tools) == 0 {
		return execution.Lent{}, err
	}
	v.mu.Lock()
	_, twice := v.loans[n.id]
	if !twice {
		v.loans[n.id] = n
	}
	v.mu.Unlock()
	if twice {
		return execution.Lent{}, fmt.Errorf("lend: execution %s has a loan already", n.id)
	}
	lent, err := v.lend(ctx, n, asked.Credentials)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		leases, _ := v.Revoke(ctx, n.id) // it never fails
		return execution.Lent{Leases: leases}, err
	}
	return lent, nil
}

// cleanupTimeout bounds taking back what was lent in vain. What is not done by then
// is done by Run.
const cleanupTimeout = 10 * time.Second

func (v *Vault) lend(ctx context.Context, n *loan, credentials []execution.Credential) (execution.Lent, error) {
	if !slices.ContainsFunc(credentials, exposed) {
		return execution.Lent{}, v.available(ctx)
	}
	return n.expose(ctx, credentials, v.issue)
}

// newLoan checks what is asked for, and says which credentials share a token: those
// that the same policies read, for the same time. One token with the policies of all
// would let the reading of one credential reach what only another may.
func (v *Vault) newLoan(asked execution.Loan) (*loan, error) {
	if asked.Execution == "" || asked.Lasts <= 0 {
		return nil, errors.New("lend: a loan without an execution, or for no time")
	}
	if err := v.Check(asked.Credentials); err != nil {
		return nil, err
	}
	n := &loan{
		id: asked.Execution, asked: asked, tools: make(map[string]*lease),
		until: time.Now().Add(min(asked.Lasts, v.cfg.MaxTTL)),
	}
	shared := make(map[string]*token)
	for _, c := range asked.Credentials {
		mount, path, err := v.cfg.Mounts.resolve(c)
		if err != nil {
			return nil, err
		}
		names := slices.Clone(c.VaultPolicies)
		slices.Sort(names)
		key := strconv.FormatInt(c.TTLS, 10) + " " + strings.Join(names, " ")
		t := shared[key]
		if t == nil {
			t = &token{loan: n, lock: make(chan struct{}, 1), longest: time.Duration(min(c.TTLS, maxSeconds)) * time.Second}
			shared[key] = t
			n.tokens = append(n.tokens, t)
		}
		l := &lease{loan: n, token: t, credential: c, mount: mount, path: path}
		t.leases = append(t.leases, l)
		n.tools[c.Tool] = l
	}
	return n, nil
}

// maxSeconds keeps a time in seconds from overflowing one in nanoseconds.
const maxSeconds = 1 << 32

// Value returns the credential that the execution was lent for tool, for one use of
// it. It is read from Vault at the first use, once however many ask, and recorded
// before anybody has it. A use past the credential's end, beyond max_uses or after
// Revoke is refused with KindDenied.
func (v *Vault) Value(ctx context.Context, executionID, tool string) (map[string]execution.Secret, execution.Lease, error) {
	return v.find(executionID).use(ctx, tool, v.issue)
}

// issue reads the credential, unless that was done.
func (v *Vault) issue(ctx context.Context, l *lease) error {
	if l.isIssued() {
		return nil
	}
	t := l.token
	if err := t.take(ctx); err != nil {
		return fault("wait for the credential", "", err)
	}
	defer t.release()
	if _, _, err := l.value(); err != nil || l.isIssued() {
		return err
	}
	if (t.value == execution.Secret{}) {
		if err := v.make(ctx, t); err != nil {
			v.disown(ctx, t)
			return err
		}
	}
	got, err := v.read(ctx, t, l)
	if err != nil {
		if !time.Now().Before(t.expires) { // Vault refuses a token that is over as any other
			return expired(l.credential.Tool)
		}
		return err
	}
	l.vaultID = got.leaseID
	public := execution.Lease{
		Tool: l.credential.Tool, ID: leaseID(got.leaseID, t.entry.Accessor, l.credential.Tool),
		Expires: t.expires.UTC(), Exposed: exposed(l.credential),
	}
	if !got.expires.IsZero() && got.expires.Before(t.expires) {
		public.Expires = got.expires.UTC()
	}
	n := l.loan
	n.mu.Lock()
	l.public = public
	n.mu.Unlock()
	if err := v.record(ctx, l.record(execution.RecordLeaseIssued, l.change())); err != nil {
		v.finish(context.WithoutCancel(ctx), t)
		return err
	}
	v.alive.Store(time.Now().UnixNano())
	v.issued.Add(1)
	n.mu.Lock()
	l.issued, l.fields = true, got.fields
	n.mu.Unlock()
	return nil
}

// record makes a record durable, also where its cause has left.
func (v *Vault) record(ctx context.Context, r execution.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := v.cfg.Record(ctx, r)
	if err == nil || execution.KindOf(err) == execution.KindUnavailable {
		return err
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "audit_unavailable", RetryAfter: retryUnavailable,
		Detail: "the audit log cannot be written, and nothing is lent without it; try again later", Err: err,
	}
}
