package egress

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"
)

func TestAuthority(t *testing.T) {
	b := newBroker(t, Config{Recorder: &memory{}})
	one, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	c := one.Leaf
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.Subject.CommonName != "Execgate sandbox" || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("%+v", c)
	}
	if c.NotBefore.After(time.Now().Add(-59*time.Minute)) || c.NotAfter.After(time.Now().Add(8*24*time.Hour)) || c.NotAfter.Before(time.Now().Add(6*24*time.Hour)) {
		t.Errorf("it is valid from %s to %s", c.NotBefore, c.NotAfter)
	}
	if other.Leaf.Equal(c) || other.Leaf.CheckSignatureFrom(c) == nil {
		t.Error("two sandboxes have one authority")
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	var l leaves
	leaf, err := l.of(one, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "api.test", Roots: roots}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"x.api.test", "evil.test"} {
		if leaf.Leaf.VerifyHostname(name) == nil {
			t.Errorf("the certificate is for %s, too", name)
		}
	}
	if again, err := l.of(one, "api.test"); err != nil || again != leaf {
		t.Errorf("a certificate is made anew, %v", err)
	}
	if apart, err := l.of(other, "api.test"); err != nil || apart.Leaf.CheckSignatureFrom(c) == nil {
		t.Errorf("one sandbox has another's certificate, %v", err)
	}
}

func TestCertificatesAreFew(t *testing.T) {
	authority, err := newBroker(t, Config{Recorder: &memory{}}).Authority()
	if err != nil {
		t.Fatal(err)
	}
	var l leaves
	for i := range maxLeaves + 5 {
		if _, err := l.of(authority, fmt.Sprintf("h%d.test", i)); err != nil {
			t.Fatal(err)
		}
		if len(l.byName) > maxLeaves {
			t.Fatalf("%d certificates are kept", len(l.byName))
		}
	}
}
