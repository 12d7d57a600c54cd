package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/execgate/execgate/execution"
)

// Reconcile ends what an earlier process left: it is called once, before anything is
// lent. What cannot be ended now is tried again by Run; the error is that of a journal
// that cannot be read.
func (v *Vault) Reconcile(ctx context.Context) error {
	entries, err := v.cfg.Journal.Open(ctx)
	if err != nil {
		return fmt.Errorf("read what was lent: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	v.cfg.Logger.InfoContext(ctx, "ending what was lent before the start", "tokens", len(entries))
	var unknown []string
	for _, e := range entries {
		if e.Accessor == "" {
			unknown = append(unknown, e.ID)
		}
	}
	var found map[string]string
	if len(unknown) > 0 {
		// One search for all; where it fails, each is sought again when it is ended.
		found, _ = v.seek(ctx, unknown...)
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, e := range entries {
		t := v.restore(e)
		if t.entry.Accessor == "" {
			t.entry.Accessor = found[e.ID]
		}
		group.Go(func() error {
			v.retry(ctx, t)
			v.forget(t.loan)
			return nil
		})
	}
	return group.Wait()
}

// restore makes of an entry the token that it is about. With an accessor known, what
// the token reads may have been lent; without, nothing was.
func (v *Vault) restore(e Entry) *token {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.loans[e.Execution]
	if n == nil {
		n = &loan{id: e.Execution, asked: execution.Loan{Principal: execution.Principal{Tenant: e.Owner.Tenant, Subject: e.Owner.Subject}}, closed: true, tools: make(map[string]*lease)}
		v.loans[e.Execution] = n
	}
	t := &token{loan: n, lock: make(chan struct{}, 1), entry: e, begun: true, expires: e.Expires}
	for _, c := range e.Credentials {
		l := &lease{loan: n, token: t, credential: c, over: true, issued: e.Accessor != ""}
		// The mounts may have been configured anew since: what was is in the entry.
		l.mount, l.path, _ = v.cfg.Mounts.path(c)
		if l.mount.Path == "" {
			l.mount, l.path = Mount{Path: c.Mount, Engine: c.Engine}, c.Mount+"/"+c.Path
		}
		l.public = execution.Lease{
			Tool: c.Tool, ID: leaseID("", e.Accessor, c.Tool), Expires: e.Expires.Add(-unaccountedMargin), Exposed: exposed(c),
		}
		t.leases = append(t.leases, l)
		n.tools[c.Tool] = l
	}
	n.mu.Lock()
	n.tokens = append(n.tokens, t)
	n.mu.Unlock()
	return t
}

// seek looks for tokens that were made with these intents, and returns their
// accessors. It is for what was asked for and never answered: a crash, or a connection
// that broke.
func (v *Vault) seek(ctx context.Context, intents ...string) (map[string]string, error) {
	s := &v.seeker
	s.mu.Lock()
	for _, intent := range intents {
		s.wanted[intent]++
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, intent := range intents {
			if s.wanted[intent]--; s.wanted[intent] == 0 {
				delete(s.wanted, intent)
				delete(s.found, intent)
			}
		}
	}()
	asked := time.Now()
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return nil, fault("seek tokens", "", ctx.Err())
	}
	if s.began.Before(asked) {
		began := time.Now()
		if err := v.search(ctx); err != nil {
			return nil, err
		}
		s.began = began
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]string)
	for _, intent := range intents {
		if accessor := s.found[intent]; accessor != "" {
			found[intent] = accessor
		}
	}
	return found, nil
}

// seeker has one search serve all who wait for one: it looks through every token
// that Vault has.
type seeker struct {
	lock  chan struct{} // held by who searches; it has room for one
	began time.Time     // the last search that came to its end; guarded by lock

	mu     sync.Mutex
	wanted map[string]int    // intents, and how many wait
	found  map[string]string // their accessors
}

// search looks for all that is wanted now. It is called with the seeker's lock held.
func (v *Vault) search(ctx context.Context) error {
	var list *api.Secret
	err := v.own.do(ctx, func(c *api.Client) (err error) {
		list, err = c.Logical().ListWithContext(ctx, "auth/token/accessors")
		return err
	})
	if err != nil {
		return v.cannotSeek("auth/token/accessors", err)
	}
	if list == nil {
		return nil
	}
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		accessor, ok := key.(string)
		if !ok {
			return errNoSense("list the tokens")
		}
		intent, err := v.intentOf(ctx, accessor)
		if err != nil {
			return v.cannotSeek("auth/token/lookup-accessor", err)
		}
		v.seeker.mu.Lock()
		if v.seeker.wanted[intent] > 0 {
			v.seeker.found[intent] = accessor
		}
		all := len(v.seeker.found) == len(v.seeker.wanted)
		v.seeker.mu.Unlock()
		if all {
			break
		}
	}
	return nil
}

// intentOf is what the token was made for; empty: it is not ours, or is gone.
func (v *Vault) intentOf(ctx context.Context, accessor string) (string, error) {
	var about *api.Secret
	err := v.own.do(ctx, func(c *api.Client) (err error) {
		about, err = c.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		return err
	})
	if r, ok := errors.AsType[*refusal](err); ok && r.noToken || statusOf(err) == http.StatusNotFound {
		return "", nil // it ended since the list was made
	}
	if err != nil || about == nil {
		return "", err
	}
	meta, _ := about.Data["meta"].(map[string]any)
	intent, _ := meta["intent"].(string)
	return intent, nil
}

func (v *Vault) cannotSeek(path string, err error) error {
	if statusOf(err) == http.StatusForbidden {
		v.lackOnce(path, `a token that was asked for just before a crash is left until it ends by itself; it needs path "auth/token/accessors" { capabilities = ["list", "sudo"] } and path "auth/token/lookup-accessor" { capabilities = ["update"] }`)
	}
	return fault("seek tokens", "allow the gateway "+path, err)
}
