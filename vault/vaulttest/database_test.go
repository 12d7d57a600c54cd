package vaulttest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/vault/vaulttest"
)

// What a credential of a database is: a user made for one lease, who ends with it.
func TestDatabaseUserEndsWithItsLease(t *testing.T) {
	database := vaulttest.Database{TTL: time.Hour, MaxTTL: time.Hour}
	v, p := vaulttest.VaultWithDatabase(t, vaulttest.Options{}, database)
	p.Query(t, "CREATE TABLE orders AS SELECT 7 AS id")
	lease := v.Do(t, http.MethodGet, database.Path(), nil)
	name, password := lease.Text("data", "username"), lease.Text("data", "password")

	if got := lease.Text("lease_duration"); got != "3600" {
		t.Errorf("the lease is for %s s", got)
	}
	until := p.Query(t, fmt.Sprintf("SELECT rolvaliduntil BETWEEN now() + '59 min' AND now() + '61 min' FROM pg_roles WHERE rolname = '%s'", name))
	if until != "t" {
		t.Errorf("the user's password is not valid until the lease ends: %q", until)
	}
	if rows, err := p.QueryAs(name, password, "TABLE orders"); err != nil || rows != "7" {
		t.Errorf("the leased user reads %q: %v", rows, err)
	}
	if _, err := p.QueryAs(name, password, "DELETE FROM orders"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("the leased user writes: %v", err)
	}

	open := make(chan error, 1)
	go func() {
		_, err := p.QueryAs(name, password, "SELECT pg_sleep(600)")
		open <- err
	}()
	connected := fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE usename = '%s' AND query LIKE '%%pg_sleep%%'", name)
	for deadline := time.Now().Add(3 * time.Minute); p.Query(t, connected) != "1"; {
		if time.Now().After(deadline) {
			t.Fatal("the leased user's connection never ran its query")
		}
	}

	v.Do(t, http.MethodPut, "sys/leases/revoke", map[string]any{"lease_id": lease.Text("lease_id"), "sync": true})
	if err := <-open; err == nil || !strings.Contains(err.Error(), "terminating connection") {
		t.Errorf("the connection that was open: %v", err)
	}
	if _, err := p.QueryAs(name, password, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("after the revocation: %v", err)
	}
	if got := p.Query(t, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"); got != "0" {
		t.Errorf("%s users are left", got)
	}
}

// Revoking a token revokes what was leased with it.
func TestDatabaseUsersEndWithTheirToken(t *testing.T) {
	database := vaulttest.Database{Mount: "orders-db", Role: "agent"}
	v, p := vaulttest.VaultWithDatabase(t, vaulttest.Options{Durable: true}, database)
	v.Do(t, http.MethodPut, "sys/policies/acl/agent", map[string]string{
		"policy": `path "` + database.Path() + `" { capabilities = ["read"] }`,
	})
	made := v.Do(t, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{"agent"}, "ttl": "2m"})
	token := made.Text("auth", "client_token")
	const users = 5
	for range users {
		if answer := v.DoAs(t, token, http.MethodGet, database.Path(), nil); answer.Status != http.StatusOK {
			t.Fatalf("%d: %s", answer.Status, answer.Body)
		}
	}
	count := "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"
	if got := p.Query(t, count); got != fmt.Sprint(users) {
		t.Errorf("%s users, want %d", got, users)
	}
	v.Do(t, http.MethodPost, "auth/token/revoke-accessor", map[string]string{"accessor": made.Text("auth", "accessor")})
	for deadline := time.Now().Add(3 * time.Minute); p.Query(t, count) != "0"; {
		if time.Now().After(deadline) {
			t.Fatalf("%s users are left", p.Query(t, count))
		}
	}
}
