package vaulttest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/vault/vaulttest"
)

const health = "sys/health"

func TestStartGivesAVaultThatIsReady(t *testing.T) {
	for name, c := range map[string]struct {
		options vaulttest.Options
		v2, v1  string // the mounts of each version
	}{
		"in memory":          {vaulttest.Options{KV1: []string{"old"}, KV2: []string{"new"}}, "secret new", "old"},
		"leases on kv":       {vaulttest.Options{LeasedKV: true, KV1: []string{"old"}}, "", "secret old"},
		"durable":            {vaulttest.Options{Durable: true, KV1: []string{"old"}, KV2: []string{"new"}}, "secret new", "old"},
		"in memory over TLS": {vaulttest.Options{TLS: true}, "secret", ""},
		"durable over TLS":   {vaulttest.Options{TLS: true, Durable: true}, "secret", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := vaulttest.Start(t, c.options)
			for _, mount := range strings.Fields(c.v2) {
				v.Do(t, http.MethodPost, mount+"/data/key", map[string]any{"data": map[string]string{"value": "new"}})
				if got := v.Do(t, http.MethodGet, mount+"/data/key", nil).Text("data", "data", "value"); got != "new" {
					t.Errorf("%s of version 2 holds %q", mount, got)
				}
			}
			for _, mount := range strings.Fields(c.v1) {
				v.Do(t, http.MethodPost, mount+"/key", map[string]string{"value": "old"})
				answer := v.Do(t, http.MethodGet, mount+"/key", nil)
				if got := answer.Text("data", "value"); got != "old" {
					t.Errorf("%s of version 1 holds %q", mount, got)
				}
				if leased := answer.Text("lease_id") != ""; leased != c.options.LeasedKV {
					t.Errorf("%s: has a lease: %v", mount, leased)
				}
			}
			if got := v.DoAs(t, "", http.MethodGet, "auth/token/lookup-self", nil).Status; got != http.StatusForbidden {
				t.Errorf("without a token: %d", got)
			}
		})
	}
}

// The one that is built has few plugins: these are what tests use.
func TestVaultHasThePluginsThatTestsUse(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	for _, engine := range []string{"kv", "database", "pki", "aws"} {
		v.Do(t, http.MethodPost, "sys/mounts/plugin-"+engine, map[string]string{"type": engine})
	}
	for _, method := range []string{"approle", "jwt", "kubernetes"} {
		v.Do(t, http.MethodPost, "sys/auth/plugin-"+method, map[string]string{"type": method})
	}
}

func TestTLSHoldsForTheNamesAlone(t *testing.T) {
	for name, durable := range map[string]bool{"in memory": false, "durable": true} {
		t.Run(name, func(t *testing.T) {
			v := vaulttest.Start(t, vaulttest.Options{TLS: true, Names: []string{"vault.example"}, Durable: durable})
			ca, err := os.ReadFile(v.CAFile())
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(ca)
			address := strings.TrimPrefix(v.Addr(), "https://")
			for server, want := range map[string]bool{"vault.example": true, "localhost": true, "else.example": false} {
				connection, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: server})
				if (err == nil) != want {
					t.Errorf("as %s: %v", server, err)
				}
				if err == nil {
					_ = connection.Close()
				}
			}
		})
	}
}

func TestSealAndUnseal(t *testing.T) {
	for name, options := range map[string]vaulttest.Options{"in memory": {}, "durable": {Durable: true}} {
		t.Run(name, func(t *testing.T) {
			v := vaulttest.Start(t, options)
			v.Do(t, http.MethodPost, "secret/data/key", map[string]any{"data": map[string]string{"value": "kept"}})
			v.Seal(t)
			for path, want := range map[string]int{health: 503, "secret/data/key": 503, "sys/seal-status": 200} {
				if got := v.DoAs(t, v.RootToken(), http.MethodGet, path, nil).Status; got != want {
					t.Errorf("sealed, %s: %d, want %d", path, got, want)
				}
			}
			v.Unseal(t)
			if got := v.Do(t, http.MethodGet, "secret/data/key", nil).Text("data", "data", "value"); got != "kept" {
				t.Errorf("unsealed, the value is %q", got)
			}
		})
	}
}

func TestRestart(t *testing.T) {
	for name, options := range map[string]vaulttest.Options{
		"in memory": {KV1: []string{"old"}}, "durable": {KV1: []string{"old"}, Durable: true}, "over TLS": {KV1: []string{"old"}, TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := vaulttest.Start(t, options)
			address, token := v.Addr(), v.RootToken()
			v.Do(t, http.MethodPost, "old/key", map[string]string{"value": "kept"})
			v.Stop()
			if err := ask(t, v, time.Minute); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("stopped: %v", err)
			}
			v.Restart(t)
			want := http.StatusNotFound
			if options.Durable {
				if got := v.DoAs(t, "", http.MethodGet, health, nil).Status; got != http.StatusServiceUnavailable {
					t.Errorf("started anew it answers %d, and not as one that is sealed", got)
				}
				v.Unseal(t)
				want = http.StatusOK
			}
			if got := v.DoAs(t, token, http.MethodGet, "old/key", nil); got.Status != want {
				t.Errorf("a value from before: %d: %s; want %d", got.Status, got.Body, want)
			}
			if v.Addr() != address || v.RootToken() != token {
				t.Errorf("%s and another token, or not %s", v.Addr(), address)
			}
		})
	}
}

func TestPausedItAnswersNothing(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Pause(t)
	if err := ask(t, v, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("paused: %v", err)
	}
	v.Resume(t)
	if got := v.DoAs(t, "", http.MethodGet, health, nil).Status; got != http.StatusOK {
		t.Errorf("resumed: %d", got)
	}
}

// ask is one request that waits no longer than that.
func ask(t *testing.T, v *vaulttest.Server, most time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.Addr()+"/v1/"+health, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err == nil {
		_ = response.Body.Close()
	}
	return err
}

func TestAuditDeviceThatIsFull(t *testing.T) {
	before, err := os.Stat("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	v := vaulttest.Start(t, vaulttest.Options{Audit: true})
	written := func() []byte {
		t.Helper()
		text, err := os.ReadFile(v.AuditLog())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	v.Do(t, http.MethodGet, "auth/token/lookup-self", nil)
	if !bytes.Contains(written(), []byte(`"path":"auth/token/lookup-self"`)) {
		t.Errorf("the audit log lacks a call: %s", written())
	}

	v.FillAudit(t)
	size := len(written())
	for path, want := range map[string]int{health: 200, "auth/token/lookup-self": 500, "secret/config": 500} {
		if got := v.DoAs(t, v.RootToken(), http.MethodGet, path, nil).Status; got != want {
			t.Errorf("full, %s: %d, want %d", path, got, want)
		}
	}
	if got := len(written()); got != size {
		t.Errorf("full, the audit log grew from %d to %d bytes", size, got)
	}

	v.FreeAudit(t)
	v.Do(t, http.MethodGet, "secret/config", nil)
	if !bytes.Contains(written()[size:], []byte(`"path":"secret/config"`)) {
		t.Error("with room again, the audit log lacks a call")
	}
	after, err := os.Stat("/dev/full")
	if err != nil || after.Mode() != before.Mode() {
		t.Errorf("/dev/full: %v, %v", after, err)
	}
}

func TestSharedIsOneForAll(t *testing.T) {
	v := vaulttest.Shared(t)
	if v != vaulttest.Shared(t) {
		t.Error("two servers")
	}
	for _, mount := range []string{"kv1", "secret"} {
		if got := v.Do(t, http.MethodGet, "sys/mounts/"+mount, nil).Text("type"); got != "kv" {
			t.Errorf("%s is %q", mount, got)
		}
	}
}

func TestVaultLeavesNothing(t *testing.T) {
	var file string
	t.Run("in use", func(t *testing.T) {
		file = vaulttest.Start(t, vaulttest.Options{Durable: true, Audit: true, TLS: true}).AuditLog()
	})
	leavesNothing(t, filepath.Dir(file))
}
