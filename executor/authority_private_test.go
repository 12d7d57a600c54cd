package executor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/execgate/execgate/executor/wire"
)

// NewTestAuthority makes a certificate authority of a sandbox, as an Egress does.
func NewTestAuthority() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Execgate sandbox of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(7 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// The agent is given the certificate, once, and nothing of the key.
func TestAgentIsGivenTheCertificateAlone(t *testing.T) {
	authority, err := NewTestAuthority()
	if err != nil {
		t.Fatal(err)
	}
	outside, inside := net.Pipe()
	sb := &sandbox{control: outside, authority: authority}
	told := make(chan error, 1)
	go func() {
		err := errors.Join(sb.tellAuthority(), sb.tellAuthority())
		outside.Close()
		told <- err
	}()
	said, err := io.ReadAll(inside)
	if err := errors.Join(err, <-told); err != nil {
		t.Fatal(err)
	}
	reader := wire.NewReader(bytes.NewReader(said))
	frame, err := reader.Next(map[wire.FrameType]int{wire.FrameAuthority: 1 << 12})
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(frame.Payload)
	if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 || len(rest) > 0 || !bytes.Equal(block.Bytes, authority.Certificate[0]) {
		t.Errorf("the agent was given %s", frame.Payload)
	}
	if _, err := reader.Next(nil); err != io.EOF {
		t.Errorf("and then %v", err)
	}
}
