package executor

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/execgate/execgate/executor/wire"
)

// extraVariable names what node trusts beside its own roots. It is read when node
// starts, and never again (nodejs.org/api/cli.html#node_extra_ca_certsfile).
const extraVariable = "NODE_EXTRA_CA_CERTS"

// trustVariables name the file with what a program is to trust: for OpenSSL and all
// that asks it for its default, python's requests, curl, git, and node.
var trustVariables = []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", extraVariable}

// certify gives a sandbox a certificate authority of its own, if it has none. Its
// key stays here.
func (e *Executor) certify(sb *sandbox) error {
	if sb.authority != nil {
		return nil
	}
	authority, err := e.cfg.Egress.Authority()
	if err == nil && (authority == nil || len(authority.Certificate) == 0 || authority.PrivateKey == nil) {
		err = errors.New("there is none")
	}
	if err != nil {
		return unavailable(fmt.Errorf("make the sandbox's certificate authority: %w", err))
	}
	sb.authority = authority
	return nil
}

// tellAuthority gives the agent the certificate, if there is one that it has not.
func (sb *sandbox) tellAuthority() error {
	if sb.authority == nil || sb.authorityTold {
		return nil
	}
	sb.authorityTold = true
	return wire.Write(sb.control, wire.FrameAuthority, certificateOf(sb.authority))
}

// certificateOf is the certificate alone, as PEM.
func certificateOf(authority *tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]})
}

// trustAtStart reports whether a driver that waits for jobs must be started with
// what it trusts. One that forks, or takes text, gets all variables with each job.
func (l Language) trustAtStart() bool { return !l.Fork && !l.Text }

// startVariables are those that a driver which waits for jobs is started with.
func (sb *sandbox) startVariables(l Language) map[string]string {
	if sb.authority == nil || !l.trustAtStart() {
		return nil
	}
	return map[string]string{extraVariable: wire.TrustPath}
}
