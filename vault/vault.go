package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/execgate/execgate/execution"
)

// Vault lends credentials that it leases from a HashiCorp Vault. It is safe for
// concurrent use.
type Vault struct {
	cfg      Config
	client   *client
	own      *own
	schedule *schedule

	mu    sync.Mutex
	loans map[string]*loan // by their executions
	lacks map[string]bool  // rights that were found to lack, and told of

	seeker seeker
	alive  atomic.Int64 // when Vault last did what the gateway asked, in ns since 1970

	issued, revoked, failures atomic.Uint64
	pending                   atomic.Int64
}

// Counts are what happened since the start, and what is left to do now.
type Counts struct {
	Issued, Revoked uint64 // leases
	RevokeFailures  uint64 // attempts that failed
	// Pending are tokens that are to be ended and are not.
	Pending int64
	// BreakerOpen says that Vault is not being asked, for it does not answer.
	BreakerOpen bool
}

// New checks cfg, reads its certificates and asks nothing of Vault.
func New(cfg Config) (*Vault, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	client, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Vault{
		cfg: cfg, client: client, own: newOwn(cfg.Auth, client), schedule: newSchedule(),
		loans: make(map[string]*loan), lacks: make(map[string]bool),
		seeker: seeker{lock: make(chan struct{}, 1), wanted: make(map[string]int), found: make(map[string]string)},
	}, nil
}

// Run keeps the gateway logged in, ends what expires, and tries again to end what
// could not be ended, until ctx ends. It returns nil.
func (v *Vault) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error {
		v.own.keep(ctx, func(err error, again time.Duration) {
			v.cfg.Logger.WarnContext(ctx, "not logged in to vault", "error", err, "again_in", again)
		})
		return nil
	})
	group.Go(func() error { v.schedule.run(ctx); return nil })
	return group.Wait()
}

// Ready reports whether Vault does what the gateway asks: by a call that it logs,
// since a Vault whose audit devices are full says that it is healthy.
func (v *Vault) Ready(ctx context.Context) error {
	err := v.own.do(ctx, func(c *api.Client) error {
		_, err := c.Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
	if err != nil {
		return fault("look up the gateway's token", "allow it auth/token/lookup-self", err)
	}
	v.alive.Store(time.Now().UnixNano())
	return nil
}

// trusted is how long Vault is taken to be there after it did something: an
// execution that may never use what it is granted costs no call then.
const trusted = time.Second

// available reports whether it is worth to promise a credential that is read later.
func (v *Vault) available(ctx context.Context) error {
	if err := v.client.breaker.open(); err != nil {
		return fault("ask Vault", "", err)
	}
	if v.own.held() && time.Since(time.Unix(0, v.alive.Load())) < trusted {
		return nil
	}
	return v.Ready(ctx)
}

// Counts returns the counts.
func (v *Vault) Counts() Counts {
	return Counts{
		Issued: v.issued.Load(), Revoked: v.revoked.Load(), RevokeFailures: v.failures.Load(),
		Pending: v.pending.Load(), BreakerOpen: v.client.breaker.open() != nil,
	}
}

// Check is Mounts.CheckAll: it asks nobody.
func (v *Vault) Check(credentials []execution.Credential) error {
	return v.cfg.Mounts.CheckAll(credentials)
}

func (v *Vault) find(id string) *loan {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loans[id]
}

// lackOnce tells the log of a right that the gateway lacks, once.
func (v *Vault) lackOnce(path, means string) {
	v.mu.Lock()
	told := v.lacks[path]
	v.lacks[path] = true
	v.mu.Unlock()
	if !told {
		v.cfg.Logger.Warn("the gateway's policy in vault lacks a rule", "path", path, "means", means)
	}
}

// errUnaccounted is a token of which nobody knows whether it was made. If it was,
// it ends by itself when its time is over.
var errUnaccounted = &execution.Error{
	Kind: execution.KindUnavailable, Code: "token_unaccounted",
	Err: errors.New("a token may have been made, and Vault does not list it"),
}
