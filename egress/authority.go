package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// How long an authority is valid: a clock in a sandbox may be behind, and no
// sandbox lives for a week.
const (
	authorityBefore = time.Hour
	authorityAfter  = 7 * 24 * time.Hour
)

// maxLeaves bounds the certificates that are kept for one execution.
const maxLeaves = 256

// Authority makes the certificate authority of one sandbox. The key stays in the
// gateway's memory, the sandbox trusts the certificate, and nobody else does.
func (b *Broker) Authority() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Execgate sandbox"},
		NotBefore: now.Add(-authorityBefore), NotAfter: now.Add(authorityAfter),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return certify(template, template, key, key)
}

// certify returns template's certificate of key, signed by parent's key.
func certify(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // RFC 5280, 4.1.2.2: it is positive
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate back: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// leaves are the certificates of names, by one authority, for one execution.
type leaves struct {
	mu     sync.Mutex
	key    *ecdsa.PrivateKey // of all of them
	byName map[leafName]*tls.Certificate
}

type leafName struct {
	authority *tls.Certificate
	host      string
}

// of returns the certificate of host, which is normalised.
func (l *leaves) of(authority *tls.Certificate, host string) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := leafName{authority, host}
	if c := l.byName[name]; c != nil {
		return c, nil
	}
	c, err := l.mint(authority, host)
	if err != nil {
		return nil, err
	}
	if l.byName == nil || len(l.byName) >= maxLeaves {
		l.byName = map[leafName]*tls.Certificate{}
	}
	l.byName[name] = c
	return c, nil
}

func (l *leaves) mint(authority *tls.Certificate, host string) (*tls.Certificate, error) {
	signer, ok := authority.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || len(authority.Certificate) == 0 {
		return nil, errors.New("make a certificate: the authority is none that Authority has made")
	}
	parent, err := x509.ParseCertificate(authority.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	if l.key == nil {
		if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
	}
	template := &x509.Certificate{
		DNSNames: []string{host}, NotBefore: parent.NotBefore, NotAfter: parent.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(host) <= 64 { // RFC 5280, A.1: ub-common-name
		template.Subject = pkix.Name{CommonName: host}
	}
	c, err := certify(template, parent, l.key, signer)
	if err != nil {
		return nil, err
	}
	c.Certificate = append(c.Certificate, authority.Certificate[0])
	return c, nil
}
