package export

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/execgate/execgate/execution"
)

// tlsOf is how the sink's receiver is proven, and how the gateway proves itself to it.
func tlsOf(s Sink) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		text, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file %s has no certificate in PEM", s.CAFile)
		}
	}
	if s.ClientCert == "" {
		return cfg, nil
	}
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("read client_cert and client_key: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(nil); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = load
	return cfg, nil
}

// readToken reads a token, but for a newline at its end. A file that everybody may read
// is refused, and so is what cannot stand in a header.
func readToken(path string) (execution.Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return execution.Secret{}, fmt.Errorf("read token_file: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o007 != 0 {
		return execution.Secret{}, fmt.Errorf("token_file %s has the mode %v: it must be a file that others cannot read; run chmod 600 on it", path, mode)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return execution.Secret{}, fmt.Errorf("read token_file: %w", err)
	}
	content = bytes.TrimRight(content, "\r\n")
	if len(content) == 0 || bytes.ContainsFunc(content, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return execution.Secret{}, fmt.Errorf("token_file %s must hold one token of visible ASCII characters", path)
	}
	return execution.NewSecret(string(content)), nil
}
