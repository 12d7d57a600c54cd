package vault_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

func TestLogins(t *testing.T) {
	for name, c := range map[string]struct {
		auth vault.Auth
		file string
		path string // that is asked for; empty: the token is looked up
	}{
		"token file":             {vault.Auth{Method: vault.AuthTokenFile}, fakeRoot, ""},
		"approle":                {vault.Auth{Method: vault.AuthAppRole, RoleID: "role"}, "the-secret-id", "auth/approle/login"},
		"approle, another mount": {vault.Auth{Method: vault.AuthAppRole, RoleID: "role", Mount: "team/approle"}, "the-secret-id", "auth/team/approle/login"},
		"kubernetes":             {vault.Auth{Method: vault.AuthKubernetes, Role: "gateway"}, "the.signed.jwt", "auth/kubernetes/login"},
		"jwt":                    {vault.Auth{Method: vault.AuthJWT}, "the.signed.jwt", "auth/jwt/login"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.ttl = 3600
			c.auth.File = file(t, c.file)
			w := newWorld(t, f, func(config *vault.Config) { config.Auth = c.auth })
			w.lend(t, "ex_1", database(execution.InjectFile))
			w.lend(t, "ex_2", database(execution.InjectFile))
			if c.path != "" && f.called(c.path) != 1 {
				t.Errorf("%d logins", f.called(c.path))
			}
			revokeAll(t, w, "ex_1", "ex_2")
		})
	}
}

// What is wrong with a login is said, and not with what.
func TestLoginsThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		code string
	}{
		"a wrong key":   {"hvs.wrong", vault.CodeRefused},
		"an empty file": {"", vault.CodeRefused},
		"two lines":     {"hvs.a\nX-Vault-Namespace: b", vault.CodeRefused},
		"a huge file":   {strings.Repeat("hvs.a", 20000), vault.CodeRefused},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []vault.Auth{{Method: vault.AuthTokenFile}, {Method: vault.AuthAppRole, RoleID: "role"}, {Method: vault.AuthJWT, Role: "gateway"}} {
				method.File = file(t, c.text)
				w := newWorld(t, newFake(t), func(config *vault.Config) { config.Auth = method })
				_, err := w.lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile)))
				wantError(t, err, execution.KindUnavailable, c.code)
				w.nothingLeft(t)
			}
		})
	}
}

// A login that was lost, by hand or by its end, is found at the next use and made
// again; the use does not notice.
func TestLoginThatIsLost(t *testing.T) {
	f := newFake(t)
	f.ttl = 3600
	w := newWorld(t, f, func(c *vault.Config) {
		c.Auth = vault.Auth{Method: vault.AuthAppRole, RoleID: "role", File: file(t, "the-secret-id")}
	})
	w.lend(t, "ex_1", database(execution.InjectFile))
	f.mu.Lock()
	for id, token := range f.tokens {
		if token.root && id != fakeRoot {
			delete(f.tokens, id)
		}
	}
	f.mu.Unlock()
	revokeAll(t, w, "ex_1")
	if f.logins != 2 {
		t.Errorf("%d logins", f.logins)
	}
	// A right that lacks is no login that is lost.
	f.mu.Lock()
	f.forbid["auth/token/create/gate"] = true
	f.mu.Unlock()
	_, err := w.lender.Lend(t.Context(), loanOf("ex_2", database(execution.InjectFile)))
	if e := wantError(t, err, execution.KindUnavailable, vault.CodeRefused); !strings.Contains(e.Detail, "token role") {
		t.Errorf("the detail is %q", e.Detail)
	}
	if f.logins != 2 {
		t.Errorf("%d logins", f.logins)
	}
	w.nothingLeft(t)
}

// The gateway's token is renewed at two thirds of its life; where that fails there is
// a new login, as long as it takes.
func TestGatewaysTokenIsKeptAlive(t *testing.T) {
	for name, c := range map[string]struct {
		renewal http.HandlerFunc // nil: it succeeds
		logins  bool             // there are more than one
	}{
		"renewed":                       {nil, false},
		"the renewal is refused":        {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "permission denied") }, true},
		"the renewal fails for a while": {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 500, "internal error") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.ttl = 2
			f.lasting = !c.logins // or a renewal that a busy machine delays would be one too late
			if c.renewal != nil {
				f.answers["auth/token/renew-self"] = c.renewal
			}
			w := newWorld(t, f, func(config *vault.Config) {
				config.Auth = vault.Auth{Method: vault.AuthAppRole, RoleID: "role", File: file(t, "the-secret-id")}
			})
			w.run(t)
			within(t, patience, "renewed", func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				renewals := 0
				for _, call := range f.calls {
					if call == "auth/token/renew-self" {
						renewals++
					}
				}
				return renewals >= 3
			})
			within(t, patience, "ready", func() bool { return w.lender.Ready(t.Context()) == nil })
			f.mu.Lock()
			defer f.mu.Unlock()
			if (f.logins > 1) != c.logins {
				t.Errorf("%d logins", f.logins)
			}
		})
	}
}

// The file is read at every login: what puts a new key there needs to tell nobody.
func TestKeyThatIsReplaced(t *testing.T) {
	f := newFake(t)
	path := file(t, "hvs.old")
	w := newWorld(t, f, func(c *vault.Config) { c.Auth.File = path })
	w.run(t)
	if err := w.lender.Ready(t.Context()); err == nil {
		t.Fatal("the old key is good")
	}
	// What keeps the gateway logged in has tried the old key too, before there is a good one.
	within(t, patience, "told of", func() bool { return strings.Contains(w.logged(), "not logged in") })
	if err := os.WriteFile(path, []byte(fakeRoot), 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "ready", func() bool { return w.lender.Ready(t.Context()) == nil })
	if strings.Contains(w.logged(), "hvs.") {
		t.Errorf("the log says %s", w.logged())
	}
}
