package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

func TestConfigurationsThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*vault.Config){
		"no address":                func(c *vault.Config) { c.Address = "" },
		"plain http elsewhere":      func(c *vault.Config) { c.Address = "http://vault.example:8200" },
		"plain http to a name":      func(c *vault.Config) { c.Address = "http://localhost.example:8200" },
		"another scheme":            func(c *vault.Config) { c.Address = "unix:///run/vault.sock" },
		"a password in the address": func(c *vault.Config) { c.Address = "https://hvs.user:hvs.password@vault.example" },
		"no URL":                    func(c *vault.Config) { c.Address = "https://hvs.%zz" },
		"a path":                    func(c *vault.Config) { c.Address = "https://vault.example/v1" },
		"a query":                   func(c *vault.Config) { c.Address = "https://vault.example/?a" },
		"no host":                   func(c *vault.Config) { c.Address = "https://:8200" },
		"certificates with http":    func(c *vault.Config) { c.ServerName = "vault.example" },
		"a key without certificate": func(c *vault.Config) { c.Address, c.ClientKey = "https://vault.example", "key.pem" },
		"no authorities":            func(c *vault.Config) { c.Address, c.CAFile = "https://vault.example", c.Auth.File },
		"a namespace with a line":   func(c *vault.Config) { c.Namespace = "a\r\nX-Vault-Token: b" },
		"a namespace that climbs":   func(c *vault.Config) { c.Namespace = "a/../b" },
		"a role that climbs":        func(c *vault.Config) { c.TokenRole = "../create" },
		"no login":                  func(c *vault.Config) { c.Auth = vault.Auth{} },
		"another login":             func(c *vault.Config) { c.Auth.Method = "userpass" },
		"no file":                   func(c *vault.Config) { c.Auth.File = "" },
		"approle without its id":    func(c *vault.Config) { c.Auth.Method = vault.AuthAppRole },
		"kubernetes without role":   func(c *vault.Config) { c.Auth.Method = vault.AuthKubernetes },
		"a login that climbs":       func(c *vault.Config) { c.Auth = vault.Auth{Method: vault.AuthJWT, File: "f", Mount: "../sys"} },
		"no journal":                func(c *vault.Config) { c.Journal = nil },
		"no record":                 func(c *vault.Config) { c.Record = nil },
		"no log":                    func(c *vault.Config) { c.Logger = nil },
		"a bound that is negative":  func(c *vault.Config) { c.Timeout = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			config := newWorld(t, newFake(t)).config
			change(&config)
			if _, err := vault.New(config); err == nil {
				t.Error("it is taken")
			} else if strings.Contains(err.Error(), "hvs.") {
				t.Errorf("the error holds what may be secret: %v", err)
			}
		})
	}
}

// Whatever the environment says has no effect: where the calls go, as whom, in which
// namespace, with which headers, through which proxy, and what is trusted.
func TestNothingIsReadFromTheEnvironment(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s went elsewhere", r.URL) }))
	t.Cleanup(elsewhere.Close)
	for name, value := range map[string]string{
		"VAULT_ADDR": elsewhere.URL, "VAULT_AGENT_ADDR": elsewhere.URL, "VAULT_TOKEN": "hvs.of-the-environment", "VAULT_NAMESPACE": "elsewhere",
		"VAULT_HEADERS": `{"X-Else":"where"}`, "VAULT_WRAP_TTL": "60s", "VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "else", "VAULT_MAX_RETRIES": "5",
		"VAULT_CLIENT_TIMEOUT": "1ns", "VAULT_RATE_LIMIT": "0.001", "VAULT_SRV_LOOKUP": "true", "VAULT_DISABLE_REDIRECTS": "false", "VAULT_MFA": "else",
		"HTTP_PROXY": elsewhere.URL, "HTTPS_PROXY": elsewhere.URL, "ALL_PROXY": elsewhere.URL, "VAULT_HTTP_PROXY": elsewhere.URL, "VAULT_PROXY_ADDR": elsewhere.URL,
	} {
		t.Setenv(name, value)
	}
	f := newFake(t)
	var headers []http.Header
	f.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header.Clone())
		f.ServeHTTP(w, r)
	})
	w := newWorld(t, f, func(c *vault.Config) { c.Namespace = "team/a" })
	w.lend(t, "ex_1", database(execution.InjectFile))
	revokeAll(t, w, "ex_1")
	for _, h := range headers {
		if h.Get("X-Vault-Namespace") != "team/a" || h.Get("X-Else") != "" || h.Get("X-Vault-Wrap-Ttl") != "" || h.Get("X-Vault-Mfa") != "" || strings.Contains(h.Get("X-Vault-Token"), "environment") {
			t.Errorf("the headers are %v", h)
		}
	}
	// VAULT_SKIP_VERIFY and VAULT_TLS_SERVER_NAME: a certificate of nobody is not trusted.
	untrusted := httptest.NewUnstartedServer(f)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	w = newWorld(t, f, func(c *vault.Config) { c.Address = untrusted.URL })
	wantError(t, w.lender.Ready(t.Context()), execution.KindUnavailable, vault.CodeUnavailable)
}

// The library fails where a variable of its own makes no sense; it says which, and
// nothing of what is in it.
func TestAVariableTheLibraryRefuses(t *testing.T) {
	t.Setenv("VAULT_HEADERS", "hvs.broken")
	config := newWorldConfig(t)
	if _, err := vault.New(config); err == nil || !strings.Contains(err.Error(), "VAULT_") || strings.Contains(err.Error(), "hvs.") {
		t.Errorf("got %v", err)
	}
}

func newWorldConfig(t *testing.T) vault.Config {
	w := &world{journal: &journal{}}
	return vault.Config{
		Address: "https://vault.example", Auth: vault.Auth{Method: vault.AuthTokenFile, File: "f"}, Mounts: mounts,
		Journal: w.journal, Record: w.record, Logger: discard,
	}
}

// A redirect is not followed: whoever can answer for Vault cannot send the token on.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s went elsewhere, as %q", r.URL, r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		f := newFake(t)
		f.server.Handler = http.RedirectHandler(elsewhere.URL, status)
		w := newWorld(t, f)
		wantError(t, w.lender.Ready(t.Context()), execution.KindUnavailable, vault.CodeRefused)
	}
}

// What answers in Vault's place cannot fill the memory, and its text goes nowhere.
func TestAnswersThatMakeNoSense(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"empty":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"no JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hvs.secret <html>")) },
		"nobody":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"data":{}}`)) },
		"no token": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"warnings":["hvs.secret"]}`)) },
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for block := []byte(strings.Repeat("hvs.secret", 10000)); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		},
		"no HTTP": func(w http.ResponseWriter, _ *http.Request) {
			connection, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = connection.Write([]byte("hvs.secret\r\n\r\n"))
				_ = connection.Close()
			}
		},
		"an error with everything": func(w http.ResponseWriter, _ *http.Request) { refuse(w, 400, "hvs.secret") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers["auth/token/create/gate"] = answer
			f.answers["database/creds/reader"] = answer
			f.answers["auth/token/lookup-self"] = answer
			if _, err := newWorld(t, f).lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile))); execution.KindOf(err) != execution.KindUnavailable || strings.Contains(err.Error(), "hvs.") {
				t.Errorf("logged in: %v", err)
			}
			delete(f.answers, "auth/token/lookup-self")
			w := newWorld(t, f)
			for range 2 { // then with a token, and reading
				_, err := w.lender.Lend(t.Context(), loanOf(execution.NewID("ex_", time.Now()), database(execution.InjectFile)))
				if execution.KindOf(err) != execution.KindUnavailable || strings.Contains(err.Error(), "hvs.") {
					t.Errorf("got %v", err)
				}
				delete(f.answers, "auth/token/create/gate")
			}
			if strings.Contains(w.logged(), "hvs.") {
				t.Errorf("the log holds %s", w.logged())
			}
		})
	}
}

// TLS as configured: the authority, the name, and the certificate that is shown.
func TestTLS(t *testing.T) {
	f := newFake(t)
	folder := t.TempDir()
	certificate, key := selfSigned(t, folder, "vault.example")
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(certificate)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	server.StartTLS()
	t.Cleanup(server.Close)
	for name, c := range map[string]struct {
		change func(*vault.Config)
		want   bool
	}{
		"all as it should be":   {func(*vault.Config) {}, true},
		"another authority":     {func(c *vault.Config) { c.CAFile = "" }, false},
		"another name":          {func(c *vault.Config) { c.ServerName = "else.example" }, false},
		"no name":               {func(c *vault.Config) { c.ServerName = "" }, false},
		"no client certificate": {func(c *vault.Config) { c.ClientCert, c.ClientKey = "", "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, f, func(config *vault.Config) {
				config.Address, config.CAFile, config.ServerName = server.URL, certificate, "vault.example"
				config.ClientCert, config.ClientKey = certificate, key
				c.change(config)
			})
			if err := w.lender.Ready(t.Context()); (err == nil) != c.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

// selfSigned makes a certificate for a server and a client that is its own authority.
func selfSigned(t *testing.T, folder, name string) (certificate, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// An address that nobody listens on is refused at once; one that never answers ends
// with the deadline of a call.
func TestDeadlineOfACall(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w := newWorld(t, newFake(t), func(c *vault.Config) {
		c.Address = "http://" + listener.Addr().String()
		c.Timeout = 100 * time.Millisecond
	})
	// A machine that holds one up does not hold all of them up.
	within(t, patience, "over in much less than a call may take by default", func() bool {
		lender, started := w.start(t), time.Now()
		wantError(t, lender.Ready(t.Context()), execution.KindUnavailable, vault.CodeUnavailable)
		return time.Since(started) < 2*time.Second
	})
}
