package vault

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/execution"
)

// How long to wait before something is tried again.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// relogins is the least time between two logins that follow a use: whoever asks
	// in between gets the last one's error.
	relogins = time.Second
	// forever stands for the life of a token that has no end.
	forever = 24 * time.Hour
)

// own is the gateway's own token.
type own struct {
	auth   Auth
	client *client
	// lock is held while the token is being changed; it has room for one.
	lock chan struct{}

	mu    sync.Mutex
	token execution.Secret // empty: there is none
	since time.Time
	ttl   time.Duration // 0: without an end
	renew bool          // it can be renewed
	tried time.Time     // the last login that failed
	err   error         // of that login
}

func newOwn(auth Auth, c *client) *own {
	return &own{auth: auth, client: c, lock: make(chan struct{}, 1)}
}

func (o *own) current() execution.Secret {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.token
}

func (o *own) held() bool { return o.current() != execution.Secret{} }

// login replaces the token lost, which may be empty. It returns the token that is
// in its place, which another login may have brought meanwhile.
func (o *own) login(ctx context.Context, lost execution.Secret) (execution.Secret, error) {
	select {
	case o.lock <- struct{}{}:
		defer func() { <-o.lock }()
	case <-ctx.Done():
		return execution.Secret{}, fault("log in", "", ctx.Err())
	}
	o.mu.Lock()
	token, tried, err := o.token, o.tried, o.err
	o.mu.Unlock()
	if !token.Equal(lost) {
		return token, nil
	}
	if err != nil && time.Since(tried) < relogins {
		return execution.Secret{}, err
	}
	answer, err := o.auth.login(ctx, o.client)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.tried, o.err, o.token = time.Now(), err, execution.Secret{}
		return execution.Secret{}, err
	}
	o.set(answer.Auth)
	o.token = execution.NewSecret(answer.Auth.ClientToken)
	o.err = nil
	return o.token, nil
}

func (o *own) set(auth *api.SecretAuth) {
	o.since, o.ttl, o.renew = time.Now(), time.Duration(auth.LeaseDuration)*time.Second, auth.Renewable
}

// do makes a call as the gateway, after a login where there is no token. Where Vault
// refuses, and refuses the token altogether, the login is lost: there is a new one
// and the call is made once more.
func (o *own) do(ctx context.Context, call func(*api.Client) error) error {
	token := o.current()
	if (token == execution.Secret{}) {
		var err error
		if token, err = o.login(ctx, token); err != nil {
			return err
		}
	}
	err := call(o.client.as(token))
	if statusOf(err) != http.StatusForbidden {
		return err
	}
	if _, lookupErr := o.client.as(token).Auth().Token().LookupSelfWithContext(ctx); statusOf(lookupErr) != http.StatusForbidden {
		return err
	}
	if token, loginErr := o.login(ctx, token); loginErr != nil {
		return loginErr
	} else {
		return call(o.client.as(token))
	}
}

// tend logs in where that is needed and renews the token where that is due. It
// returns when to come back.
func (o *own) tend(ctx context.Context) (time.Duration, error) {
	o.mu.Lock()
	token, due := o.token, o.due()
	renew, ttl := o.renew, o.ttl
	o.mu.Unlock()
	if (token != execution.Secret{} && due > 0) {
		return due, nil
	}
	if (token != execution.Secret{} && renew) {
		answer, err := o.client.as(token).Auth().Token().RenewSelfWithContext(ctx, int(ttl.Seconds()))
		switch {
		case err == nil && answer != nil && answer.Auth != nil && time.Duration(answer.Auth.LeaseDuration)*time.Second > ttl/2:
			o.mu.Lock()
			if o.token.Equal(token) {
				o.set(answer.Auth)
			}
			due = o.due()
			o.mu.Unlock()
			return max(due, firstBackoff), nil
		case err != nil && statusOf(err) != http.StatusForbidden:
			// The token is still good for a third of its life.
			return 0, fault("renew the gateway's token", "allow it auth/token/renew-self", err)
		}
		// Its life comes to its end, or it is refused.
	}
	if _, err := o.login(ctx, token); err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return max(o.due(), firstBackoff), nil
}

// due is how long the token need not be renewed: two thirds of its life. It is
// called with mu held.
func (o *own) due() time.Duration {
	if o.ttl == 0 {
		return forever
	}
	return time.Until(o.since.Add(o.ttl * 2 / 3))
}

// keep keeps the token alive until ctx ends. failed is told of what goes wrong;
// it is tried again.
func (o *own) keep(ctx context.Context, failed func(err error, again time.Duration)) {
	for attempt := 0; ; {
		wait, err := o.tend(ctx)
		if ctx.Err() != nil {
			return
		}
		if attempt++; err != nil {
			wait = backoff(attempt)
			failed(err, wait)
		} else {
			attempt = 0
		}
		// A use that finds the login lost logs in by itself; this loop then finds it
		// done. So that a shorter life is noticed, it looks once in a while.
		timer := time.NewTimer(min(wait, maxBackoff))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// backoff is how long to wait after so many failures in a row: twice as long each
// time, up to a minute, and spread so that many do not come back at once.
func backoff(failures int) time.Duration {
	wait := min(firstBackoff<<min(failures-1, 10), maxBackoff)
	return wait/2 + rand.N(wait/2)
}
