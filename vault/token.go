package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/execution"
)

// token is one token of an execution at Vault, with everything that is read with
// it. Credentials share one where the same policies read them for the same time.
type token struct {
	loan   *loan
	leases []*lease
	// longest is what ttl_s of its credentials says; 0: as long as the loan.
	longest time.Duration

	// lock is held while the token is made, read with or ended; it has room for one.
	// It guards what follows.
	lock     chan struct{}
	entry    Entry
	begun    bool             // the journal has it
	value    execution.Secret // empty: it is not made yet, or not known
	expires  time.Time
	ended    bool // at Vault
	pending  bool // an attempt to end it failed
	failures int
	reason   string // why the last attempt to end it failed, as recorded
	expiry   *item  // in the schedule: its end
	next     *item  // in the schedule: the next attempt
}

// take locks the token, unless ctx ends first.
func (t *token) take(ctx context.Context) error {
	select {
	case t.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *token) release() { <-t.lock }

// fixCreate is what the operator has to mend where Vault makes no tokens.
const fixCreate = "allow the gateway auth/token/create-orphan or its token role with the credential's policies"

// unaccountedMargin is how long past its life a token that may exist is still
// sought: clocks differ.
const unaccountedMargin = time.Minute

// make makes the token: the intent is durable before Vault is asked, and the
// accessor before anybody can use the token. It is called with t locked, and goes
// through to its end even where its caller has left, for a token that is half made
// is the hardest to end.
func (v *Vault) make(ctx context.Context, t *token) error {
	if err := v.client.breaker.open(); err != nil {
		return fault("make a token", "", err) // nor is there anything to write down
	}
	ctx = context.WithoutCancel(ctx)
	now := time.Now()
	ttl := t.life(now)
	t.entry = Entry{
		ID: rand.Text(), Execution: t.loan.id, Owner: t.loan.asked.Principal.Owner(), Expires: now.Add(ttl + unaccountedMargin),
	}
	var tools []string
	for _, l := range t.leases {
		t.entry.Credentials = append(t.entry.Credentials, l.credential)
		tools = append(tools, l.credential.Tool)
	}
	if err := v.journal(ctx, func(ctx context.Context) error { return v.cfg.Journal.Begin(ctx, t.entry) }); err != nil {
		return err
	}
	t.begun, t.ended = true, false
	slices.Sort(tools)
	seconds := strconv.FormatInt(int64(ttl/time.Second), 10) + "s"
	no := false
	request := &api.TokenCreateRequest{
		Policies:        t.leases[0].credential.VaultPolicies,
		NoDefaultPolicy: true,
		Renewable:       &no,
		TTL:             seconds,
		ExplicitMaxTTL:  seconds,
		Type:            "service", // a batch token has no accessor, and cannot be revoked
		DisplayName:     "execgate-" + t.loan.id,
		Metadata: map[string]string{
			"execution_id": t.loan.id, "tenant": t.loan.asked.Principal.Tenant, "tools": clip(strings.Join(tools, ","), maxPath), "intent": t.entry.ID,
		},
	}
	var answer *api.Secret
	err := v.own.do(ctx, func(c *api.Client) (err error) {
		if v.cfg.TokenRole != "" {
			answer, err = c.Auth().Token().CreateWithRoleWithContext(ctx, request, v.cfg.TokenRole)
		} else {
			answer, err = c.Auth().Token().CreateOrphanWithContext(ctx, request)
		}
		return err
	})
	if err != nil {
		// What surely was not made needs no end.
		t.ended = !mayHaveHappened(err)
		return fault("make a token", fixCreate, err)
	}
	if answer == nil || answer.Auth == nil {
		return errNoSense("make a token")
	}
	t.entry.Accessor = answer.Auth.Accessor
	t.expires = now.Add(min(ttl, time.Duration(answer.Auth.LeaseDuration)*time.Second))
	if err := tokenAsAsked(answer.Auth, request, ttl); err != nil {
		return err
	}
	if err := v.journal(ctx, func(ctx context.Context) error { return v.cfg.Journal.Hold(ctx, t.entry.ID, t.entry.Accessor) }); err != nil {
		return err
	}
	t.value = execution.NewSecret(answer.Auth.ClientToken)
	t.expiry = v.schedule.at(t.expires, func(ctx context.Context) { v.expire(ctx, t) })
	return nil
}

// life is how long a token that is made now lives: in whole seconds, which is what
// Vault counts in.
func (t *token) life(now time.Time) time.Duration {
	ttl := t.loan.until.Sub(now)
	if t.longest > 0 {
		ttl = min(ttl, t.longest)
	}
	return max((ttl + time.Second - 1).Truncate(time.Second), time.Second)
}

// tokenAsAsked refuses a token that can do more, or lives longer, than was asked
// for: a token role can change either.
func tokenAsAsked(got *api.SecretAuth, asked *api.TokenCreateRequest, ttl time.Duration) error {
	wrong := ""
	switch {
	case got.Accessor == "" || got.ClientToken == "":
		wrong = "has no accessor: its type must be service"
	case !got.Orphan:
		wrong = "ends with the gateway's own: orphan must be true"
	case got.Renewable:
		wrong = "can be renewed: renewable must be false"
	case got.LeaseDuration <= 0 || time.Duration(got.LeaseDuration)*time.Second > ttl+time.Second:
		wrong = "lives longer than the execution"
	case !samePolicies(got.TokenPolicies, asked.Policies) || len(got.IdentityPolicies) > 0:
		wrong = "has other policies than those of the credential"
	default:
		return nil
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: CodeRefused, Err: fmt.Errorf("make a token: it %s", wrong),
		Detail: "the token that Vault makes for an execution " + wrong + ": the operator has to mend the token role",
	}
}

// samePolicies compares as Vault does: without order, in lower case.
func samePolicies(a, b []string) bool {
	normal := func(names []string) []string {
		out := make([]string, len(names))
		for i, name := range names {
			out[i] = strings.ToLower(name)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(normal(a), normal(b))
}

// journalTimeout bounds one write of the journal.
const journalTimeout = 10 * time.Second

func (v *Vault) journal(ctx context.Context, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
	defer cancel()
	if err := write(ctx); err != nil {
		return &execution.Error{
			Kind: execution.KindUnavailable, Code: "lease_journal_unavailable", RetryAfter: retryUnavailable,
			Detail: "the gateway cannot write down what it is about to lend, and lends nothing without; try again later", Err: err,
		}
	}
	return nil
}

// endAtVault ends the token, and everything that was leased with it. It is called
// with t locked, and may be called again: what is gone is no error.
func (v *Vault) endAtVault(ctx context.Context, t *token) error {
	if t.entry.Accessor == "" {
		accessors, err := v.seek(ctx, t.entry.ID)
		if err != nil {
			return err
		}
		if t.entry.Accessor = accessors[t.entry.ID]; t.entry.Accessor == "" {
			if time.Now().After(t.entry.Expires) {
				return nil // had it been made, it would have ended
			}
			return errUnaccounted
		}
	}
	// Vault ends the leases of a token some time after the token. Who is told that a
	// password is gone must not find that it still works: so leases come first, and
	// each is waited for.
	var left error
	for _, l := range t.leases {
		if err := v.endLease(ctx, l); err != nil {
			left = err
		}
	}
	err := v.own.do(ctx, func(c *api.Client) error {
		_, err := c.Logical().WriteWithContext(ctx, "auth/token/revoke-accessor", map[string]any{"accessor": t.entry.Accessor})
		return err
	})
	if r, ok := errors.AsType[*refusal](err); ok && r.noToken {
		err = nil
	}
	if err != nil {
		return fault("revoke a token", "allow the gateway auth/token/revoke-accessor", err)
	}
	return left
}

// endLease ends one lease and waits for it. Where the gateway may not, the end of
// the token has to do.
func (v *Vault) endLease(ctx context.Context, l *lease) error {
	if l.vaultID == "" || l.gone {
		return nil
	}
	err := v.own.do(ctx, func(c *api.Client) error {
		_, err := c.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": l.vaultID, "sync": true})
		return err
	})
	switch {
	case err == nil:
		l.gone = true
		return nil
	case statusOf(err) == http.StatusForbidden:
		v.lackOnce("sys/leases/revoke", "leases end a moment after their token: the gateway may not end them itself")
		return nil
	}
	return fault("revoke a lease", "see why the engine cannot revoke it", err)
}
