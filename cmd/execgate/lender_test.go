package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
	"github.com/execgate/execgate/vault"
	"github.com/execgate/execgate/vault/vaulttest"
)

// lenderWorld is a lender of a real Vault with the store and the log that serve has.
type lenderWorld struct {
	server   *vaulttest.Server
	postgres *vaulttest.Postgres
	token    string
	state    string
	config   vault.Config
	store    *store.Store
	lender   *vault.Vault
	leases   *store.Leases
}

func newLenderWorld(t testing.TB) *lenderWorld {
	w := &lenderWorld{state: t.TempDir()}
	w.server, w.postgres = vaulttest.VaultWithDatabase(t, vaulttest.Options{}, vaulttest.Database{TTL: time.Hour, MaxTTL: time.Hour})
	w.server.Do(t, http.MethodPost, "secret/data/api", map[string]any{"data": map[string]string{"token": "ghp_value"}})
	for name, policy := range map[string]string{
		"gateway": vaulttest.GatewayPolicy("execgate"), "secret": `path "secret/*" { capabilities = ["read"] }`, "database": `path "database/*" { capabilities = ["read"] }`,
	} {
		w.server.Do(t, http.MethodPost, "sys/policies/acl/"+name, map[string]string{"policy": policy})
	}
	w.server.Do(t, http.MethodPost, "auth/token/roles/execgate", map[string]any{
		"allowed_policies": "secret,database", "disallowed_policies": "root,default", "orphan": true, "renewable": false, "token_no_default_policy": true, "token_type": "service",
	})
	w.token = w.server.Do(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"gateway"}, "period": "1h"}).Text("auth", "client_token")
	key := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(key, []byte(w.token), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(audit.Config{Dir: filepath.Join(w.state, "audit"), KeyDir: filepath.Join(w.state, "keys"), Budget: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- log.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	w.config = vault.Config{
		Address: w.server.Addr(), Timeout: time.Minute, Auth: vault.Auth{Method: vault.AuthTokenFile, File: key}, TokenRole: "execgate",
		Mounts: vault.Mounts{{Path: "secret", Engine: execution.EngineKV2}, {Path: "database", Engine: execution.EngineDatabase}},
		Record: func(ctx context.Context, r execution.Record) error { _, err := log.Append(ctx, r); return err },
		Logger: slog.New(slog.DiscardHandler),
	}
	w.start(t)
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

// start opens the store and makes a lender, as a gateway that starts.
func (w *lenderWorld) start(t testing.TB) {
	var err error
	if w.store, err = store.Open(t.Context(), filepath.Join(w.state, "store.db")); err != nil {
		t.Fatal(err)
	}
	if w.lender, w.leases, err = newVault(w.config, w.store); err != nil {
		t.Fatal(err)
	}
}

func (w *lenderWorld) loan(mount, path string) execution.Loan {
	return execution.Loan{
		Execution: execution.NewID(execution.PrefixExecution, time.Now()), Principal: execution.Principal{Tenant: "acme", Subject: "ak_1"}, Lasts: time.Minute,
		Credentials: []execution.Credential{{Tool: "tool", Mount: mount, Path: path, VaultPolicies: []string{mount}, Inject: execution.InjectFile}},
	}
}

// What is lent is in the store while it is lent, without its value, and what a
// gateway that dies leaves there is ended by the next one.
func TestLeasesOutliveTheGateway(t *testing.T) {
	t.Parallel()
	w := newLenderWorld(t)
	lent, err := w.lender.Lend(t.Context(), w.loan("database", "creds/reader"))
	if err != nil {
		t.Fatal(err)
	}
	name, password := lent.Exposed[0].Fields["username"].Reveal(), lent.Exposed[0].Fields["password"].Reveal()
	if _, err := w.postgres.QueryAs(name, password, "SELECT 1"); err != nil {
		t.Errorf("the password does not work: %v", err)
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"store.db", "store.db-wal", "audit"} {
		err := filepath.WalkDir(filepath.Join(w.state, part), func(path string, entry os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) || err == nil && entry.IsDir() {
				return nil
			}
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) { // a checkpoint that is written is renamed
				return nil
			}
			if bytes.Contains(text, []byte(password)) || bytes.Contains(text, []byte("hvs.")) {
				t.Errorf("%s holds a secret", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	w.start(t)
	if err := w.lender.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	// After a crash Vault ends leases on its own time.
	eventually(t, "the user is gone", func() bool { return !strings.Contains(w.postgres.Query(t, "SELECT usename FROM pg_user"), name) })
	if left, err := w.leases.Open(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left are %+v, %v", left, err)
	}
}

// A password is refused the moment it was taken back.
func TestPasswordIsRefusedOnceItIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newLenderWorld(t)
	for range 10 {
		loan := w.loan("database", "creds/reader")
		lent, err := w.lender.Lend(t.Context(), loan)
		if err != nil {
			t.Fatal(err)
		}
		if leases, err := w.lender.Revoke(t.Context(), loan.Execution); err != nil || !leases[0].Revoked {
			t.Fatalf("%+v, %v", leases, err)
		}
		fields := lent.Exposed[0].Fields
		if _, err := w.postgres.QueryAs(fields["username"].Reveal(), fields["password"].Reveal(), "SELECT 1"); err == nil {
			t.Error("it works")
		}
	}
}

// raw makes the same calls with the library alone.
func (w *lenderWorld) raw(b *testing.B, client *api.Client, mount, path string) {
	no := false
	token, err := client.Auth().Token().CreateWithRoleWithContext(b.Context(), &api.TokenCreateRequest{
		Policies: []string{mount}, TTL: "60s", ExplicitMaxTTL: "60s", Renewable: &no, NoDefaultPolicy: true, Type: "service",
	}, "execgate")
	if err != nil {
		b.Fatal(err)
	}
	reader := client.WithRequestCallbacks(func(r *api.Request) { r.ClientToken = token.Auth.ClientToken })
	read, err := reader.Logical().ReadWithContext(b.Context(), mount+"/"+path)
	if err != nil {
		b.Fatal(err)
	}
	if read.LeaseID != "" {
		if _, err := client.Logical().WriteWithContext(b.Context(), "sys/leases/revoke", map[string]any{"lease_id": read.LeaseID, "sync": true}); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := client.Logical().WriteWithContext(b.Context(), "auth/token/revoke-accessor", map[string]any{"accessor": token.Auth.Accessor}); err != nil {
		b.Fatal(err)
	}
}

// Issue and revoke, with store and log as they serve, beside the same calls of the
// library in the same run. The goal is under 4 ms added at the median.
func BenchmarkLease(b *testing.B) {
	for name, c := range map[string]struct{ mount, path, raw string }{
		"kv": {"secret", "api", "data/api"}, "database": {"database", "creds/reader", "creds/reader"},
	} {
		b.Run(name, func(b *testing.B) {
			w := newLenderWorld(b)
			transport := &http.Transport{MaxIdleConnsPerHost: 64}
			client, err := api.NewClient(&api.Config{Address: w.server.Addr(), HttpClient: &http.Client{Transport: transport}})
			if err != nil {
				b.Fatal(err)
			}
			client.SetToken(w.token)
			var raws, lents []time.Duration
			for b.Loop() {
				started := time.Now()
				w.raw(b, client, c.mount, c.raw)
				raws = append(raws, time.Since(started))
				loan := w.loan(c.mount, c.path)
				started = time.Now()
				if _, err := w.lender.Lend(b.Context(), loan); err != nil {
					b.Fatal(err)
				}
				if leases, err := w.lender.Revoke(b.Context(), loan.Execution); err != nil || !leases[0].Revoked {
					b.Fatal(err)
				}
				lents = append(lents, time.Since(started))
			}
			slices.Sort(raws)
			slices.Sort(lents)
			at := func(d []time.Duration, part int) float64 { return float64(d[len(d)*part/100].Microseconds()) / 1000 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(at(raws, 50), "raw-p50-ms")
			b.ReportMetric(at(raws, 99), "raw-p99-ms")
			b.ReportMetric(at(lents, 50), "p50-ms")
			b.ReportMetric(at(lents, 99), "p99-ms")
			b.ReportMetric(at(lents, 50)-at(raws, 50), "added-p50-ms")
		})
	}
}

// Many at once: how many are issued and revoked in a second. The goal is 200.
func BenchmarkLeaseThroughput(b *testing.B) {
	w := newLenderWorld(b)
	next := make(chan struct{})
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for range next {
				loan := w.loan("secret", "api")
				if _, err := w.lender.Lend(b.Context(), loan); err != nil {
					b.Error(err)
				}
				if _, err := w.lender.Revoke(b.Context(), loan.Execution); err != nil {
					b.Error(err)
				}
			}
		})
	}
	started, n := time.Now(), 0
	for b.Loop() {
		next <- struct{}{}
		n++
	}
	close(next)
	group.Wait()
	b.ReportMetric(float64(n)/time.Since(started).Seconds(), "leases/s")
	if c := w.lender.Counts(); c.Revoked != uint64(n) || c.Pending != 0 {
		b.Errorf("%+v of %d", c, n)
	}
}

// What an unreachable Vault costs once the breaker is open. The goal is 50 ms.
func BenchmarkLeaseWithoutVault(b *testing.B) {
	w := newLenderWorld(b)
	w.config.BreakerOpen = time.Hour
	lender, _, err := newVault(w.config, w.store)
	if err != nil {
		b.Fatal(err)
	}
	w.server.Stop()
	for !lender.Counts().BreakerOpen {
		_ = lender.Ready(b.Context()) // it is not
	}
	for b.Loop() {
		if _, err := lender.Lend(b.Context(), w.loan("secret", "api")); execution.KindOf(err) != execution.KindUnavailable {
			b.Fatal(err)
		}
	}
}
