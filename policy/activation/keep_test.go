package activation_test

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
)

// signer signs bundles as the releases of one key.
func signer(t *testing.T) (policy.Keys, func(c activation.Candidate, sequence uint64) activation.Candidate) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Keys{public}, func(c activation.Candidate, sequence uint64) activation.Candidate {
		if c.Signature, err = policy.Sign(key, c.Files, sequence); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// A policy that cannot be kept does not come into force: the next image that changes
// would bring back the one that is kept in its place.
func TestPolicyThatCannotBeKept(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("first"))
	if err := os.RemoveAll(p.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	err := m.Submit(t.Context(), saying("second"))
	if execution.KindOf(err) != execution.KindUnavailable || p.says() != "first" {
		t.Errorf("%v: says %s", err, p.says())
	}
	if err := os.Mkdir(p.cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Submit(t.Context(), saying("second")); err != nil || p.says() != "second" {
		t.Errorf("%v: says %s", err, p.says())
	}
}

// Where only the list of what was in force cannot be written, the gateway itself knows
// what is in force all the same, and the highest sequence.
func TestListThatCannotBeWritten(t *testing.T) {
	p := newPlace(t)
	keys, signed := signer(t)
	p.cfg.Keys = keys
	m := p.mustStart(signed(saying("one"), 1))
	list := filepath.Join(p.cfg.Dir, "history.json")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(list, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Submit(t.Context(), signed(saying("nine"), 9)); err != nil || p.says() != "nine" {
		t.Fatalf("%v: says %s", err, p.says())
	}
	if err := m.Renew(t.Context(), map[string]string{"python": "sha256:02"}); err != nil || p.says() != "nine" {
		t.Errorf("with other images: %v: says %s", err, p.says())
	}
	if err := m.Submit(t.Context(), signed(saying("five"), 5)); codeOf(err) != activation.CodeSequence || p.says() != "nine" {
		t.Errorf("an old one: %v: says %s", err, p.says())
	}
	if active := m.State().Active; active == nil || active.Sequence != 9 {
		t.Errorf("the state is %+v", active)
	}
	if err := m.Rollback(t.Context(), somebody); err == nil || p.says() != "one" {
		t.Errorf("a rollback that is not written down: %v: says %s", err, p.says())
	}
	if active := m.State().Active; active == nil || active.Sequence != 1 {
		t.Errorf("after the rollback the state is %+v", active)
	}
}

// The shipped policy needs no signature where it is part of the program. From elsewhere
// it does: it may allow more than the one that it would take the place of.
func TestShippedPolicyFromElsewhere(t *testing.T) {
	p := newPlace(t)
	keys, signed := signer(t)
	p.cfg.Keys, p.cfg.Shipped = keys, saying("shipped").Files.Digest()
	m := p.mustStart(signed(saying("ours"), 1))
	for _, source := range []string{"api", "/etc/policy", "https://bundles.test/b.tar.gz", ""} {
		c := saying("shipped")
		c.Source = source
		if err := m.Submit(t.Context(), c); codeOf(err) != activation.CodeUnsigned || p.says() != "ours" {
			t.Errorf("from %q: %v: says %s", source, err, p.says())
		}
	}
	sent := signed(saying("shipped"), 2)
	if err := m.Submit(t.Context(), sent); err != nil || p.says() != "shipped" {
		t.Errorf("signed: %v: says %s", err, p.says())
	}
}
