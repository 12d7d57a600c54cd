package vaulttest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// callTimeout bounds one request to a server.
const callTimeout = 2 * time.Minute

// launch starts the process at s.address and waits until it answers.
func (s *Server) launch() error {
	args := []string{"server", "-config=" + s.path("vault.json")}
	if !s.options.Durable {
		args = s.memoryArgs()
	}
	if s.options.TLS && !s.options.Durable {
		s.caFile = s.path("vault-ca.pem")
		_ = os.Remove(s.caFile) // of an earlier start, which would be taken for the new one
	}
	cmd := exec.Command(s.binary, args...)
	// Nothing of the machine's: VAULT_* would configure it, and HOME is where
	// it would leave a token.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=" + os.TempDir()}
	p, err := launch(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	s.process = p
	s.client = nil // its authority may be a new one
	return p.await(s.answers)
}

func (s *Server) memoryArgs() []string {
	if s.rootToken == "" {
		s.rootToken = "root-" + rand.Text()
	}
	args := []string{
		"server", "-dev", "-dev-no-store-token",
		"-dev-root-token-id=" + s.rootToken, "-dev-listen-address=" + s.address,
	}
	if s.options.LeasedKV {
		args = append(args, "-dev-leased-kv")
	}
	if s.options.TLS {
		args = append(args, "-dev-tls", "-dev-tls-cert-dir="+s.folder)
		for _, name := range s.options.Names {
			args = append(args, "-dev-tls-san="+name)
		}
	}
	return args
}

// configure writes the configuration of a durable server.
func (s *Server) configure() error {
	port, err := s.reserve() // for the other nodes of its cluster, if there were any
	if err != nil {
		return err
	}
	cluster := fmt.Sprintf("127.0.0.1:%d", port)
	listener := map[string]any{"address": s.address, "cluster_address": cluster, "tls_disable": !s.options.TLS}
	if s.options.TLS {
		c, err := newCertificate(s.folder, append([]string{"localhost"}, s.options.Names...))
		if err != nil {
			return err
		}
		s.caFile = c.caFile
		listener["tls_cert_file"], listener["tls_key_file"] = c.certFile, c.keyFile
	}
	data := s.path("data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{
		"storage":       map[string]any{"raft": map[string]any{"path": data, "node_id": "only", "performance_multiplier": "1"}},
		"listener":      map[string]any{"tcp": listener},
		"api_addr":      s.Addr(),
		"cluster_addr":  "https://" + cluster,
		"disable_mlock": true, // which needs a privilege
	})
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("vault.json"), text, 0o600)
}

// answers reports whether the server is up: unsealed if it is one in memory,
// and in whatever state otherwise.
func (s *Server) answers(ctx context.Context) error {
	answer, err := s.call(ctx, "", http.MethodGet, "sys/health", nil)
	if err != nil || s.options.Durable {
		return err
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("sys/health: %d", answer.Status)
	}
	// It is said once everything is set up.
	_, key, found := strings.Cut(s.process.output.text(), "Unseal Key: ")
	key, _, ended := strings.Cut(key, "\n")
	if !found || !ended {
		return errors.New("it has not said its key")
	}
	s.unsealKey = strings.TrimSpace(key)
	return nil
}

// httpClient is for this process of the server. Nothing is kept open: a server
// that was killed leaves no connection that fails later.
func (s *Server) httpClient() (*http.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if s.options.TLS {
		ca, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("no certificate in %s", s.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	s.client = &http.Client{Transport: transport, Timeout: callTimeout}
	return s.client, nil
}
