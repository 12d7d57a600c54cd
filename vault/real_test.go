package vault_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/vault/vaulttest"
)

func TestContractWithVault(t *testing.T) {
	s := newReal(t)
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

// realVault is a real Vault with a real PostgreSQL, set up as docs/vault.md says.
type realVault struct {
	*vaulttest.Server
	postgres *vaulttest.Postgres
	token    string
}

func newReal(t testing.TB) *realVault {
	s, postgres := vaulttest.VaultWithDatabase(t, vaulttest.Options{KV1: []string{"kv1"}, Audit: true}, vaulttest.Database{TTL: 10 * time.Minute, MaxTTL: time.Hour})
	s.AddDatabase(t, postgres, vaulttest.Database{Mount: "short", TTL: 2 * time.Second, MaxTTL: 2 * time.Second})
	r := &realVault{Server: s, postgres: postgres}
	for name, value := range values {
		s.Do(t, http.MethodPost, "kv1/"+name, value)
		s.Do(t, http.MethodPost, "secret/data/"+name, map[string]any{"data": value})
	}
	s.Do(t, http.MethodPost, "sys/mounts/pki", map[string]any{"type": "pki", "config": map[string]string{"max_lease_ttl": "24h"}})
	s.Do(t, http.MethodPost, "pki/root/generate/internal", map[string]string{"common_name": "root.example", "ttl": "20h"})
	s.Do(t, http.MethodPost, "pki/roles/client", map[string]any{"allowed_domains": "agents.example", "allow_subdomains": true, "max_ttl": "1h"})
	for _, m := range mounts {
		s.Do(t, http.MethodPost, "sys/policies/acl/"+m.Path, map[string]string{"policy": `path "` + m.Path + `/*" { capabilities = ["read", "update"] }`})
	}
	s.Do(t, http.MethodPost, "sys/policies/acl/gateway", map[string]string{"policy": vaulttest.GatewayPolicy("gate")})
	s.Do(t, http.MethodPost, "auth/token/roles/gate", map[string]any{
		"allowed_policies": "kv1,secret,database,short,aws,pki,misc", "disallowed_policies": "default,root", "orphan": true, "renewable": false, "token_no_default_policy": true, "token_type": "service",
	})
	r.token = s.Do(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"gateway"}, "period": "1h"}).Text("auth", "client_token")
	return r
}

func (r *realVault) gateway() string { return r.token }

func (r *realVault) limit(t testing.TB) {
	r.Do(t, http.MethodPost, "sys/quotas/rate-limit/make", map[string]any{"path": "auth/token/create/gate", "rate": 1, "interval": "60s", "block_interval": "7s"})
	t.Cleanup(func() { r.Do(t, http.MethodDelete, "sys/quotas/rate-limit/make", nil) })
}

func (r *realVault) executionTokens(t testing.TB) []string {
	var list struct{ Data struct{ Keys []string } }
	if err := json.Unmarshal(r.Do(t, "LIST", "auth/token/accessors", nil).Body, &list); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, accessor := range list.Data.Keys {
		about := r.DoAs(t, r.rootToken(), http.MethodPost, "auth/token/lookup-accessor", map[string]string{"accessor": accessor})
		if about.Text("data", "meta", "execution_id") != "" {
			out = append(out, accessor)
		}
	}
	return out
}

func (r *realVault) rootToken() string { return r.Server.RootToken() }

func (r *realVault) users(t testing.TB) []string {
	return strings.Fields(r.postgres.Query(t, "SELECT usename FROM pg_user WHERE usename LIKE 'v-%'"))
}

func (r *realVault) revokeByHand(t testing.TB, accessor string) {
	r.Do(t, http.MethodPost, "auth/token/revoke-accessor", map[string]string{"accessor": accessor})
}
