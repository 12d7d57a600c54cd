package policy

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
)

func TestSignatures(t *testing.T) {
	private, public, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := ParsePublicKeys(append(bytes.Clone(other), public...))
	if err != nil || len(trusted) != 2 {
		t.Fatalf("%v: %d keys", err, len(trusted))
	}
	s, err := Sign(key, aBundle, 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := trusted.Verify(aBundle, s); err != nil {
		t.Error(err)
	}

	changed := maps.Clone(aBundle)
	changed["p.rego"] = append(bytes.Clone(changed["p.rego"]), ' ')
	if err := trusted.Verify(changed, s); err == nil || !strings.Contains(err.Error(), "changed after") {
		t.Errorf("changed files: %v", err)
	}
	for name, forge := range map[string]func(*Signature){
		"sequence": func(s *Signature) { s.Sequence++ },
		"digest":   func(s *Signature) { s.Digest = changed.Digest() },
		"bytes":    func(s *Signature) { s.Signature = bytes.Repeat([]byte{1}, 64) },
		"none":     func(s *Signature) { s.Signature = nil },
		"key":      func(s *Signature) { s.Key = KeyID(trusted[0]) },
		"unknown":  func(s *Signature) { s.Key = "0000000000000000" },
	} {
		forged := *s
		forge(&forged)
		files := aBundle
		if name == "digest" {
			files = changed
		}
		if trusted.Verify(files, &forged) == nil {
			t.Errorf("a forged %s is taken", name)
		}
	}
	if (Keys{}).Verify(aBundle, s) == nil {
		t.Error("nobody is trusted, and a signature is taken")
	}
	for _, sequence := range []uint64{0, 1 << 53} {
		if _, err := Sign(key, aBundle, sequence); err == nil {
			t.Errorf("signed as %d", sequence)
		}
	}
}

func TestSignatureFiles(t *testing.T) {
	if s, err := ReadSignature(fstest.MapFS{}); s != nil || err != nil {
		t.Errorf("no file: %+v, %v", s, err)
	}
	const good = `{"v": 1, "sequence": 7, "digest": "sha256:00", "key": "00", "signature": "AA=="}`
	if s, err := ReadSignature(fstest.MapFS{SignatureName: {Data: []byte(good)}}); err != nil || s.Sequence != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	for name, text := range map[string]string{
		"empty":        ``,
		"version":      strings.Replace(good, `"v": 1`, `"v": 2`, 1),
		"no sequence":  strings.Replace(good, `7`, `0`, 1),
		"twice":        strings.Replace(good, `"v": 1`, `"v": 1, "sequence": 9`, 1),
		"another case": strings.Replace(good, `"v": 1`, `"v": 1, "Sequence": 9`, 1),
		"unknown":      strings.Replace(good, `"v": 1`, `"v": 1, "by": "me"`, 1),
		"huge":         good + strings.Repeat(" ", 5<<10),
	} {
		if s, err := ReadSignature(fstest.MapFS{SignatureName: {Data: []byte(text)}}); err == nil {
			t.Errorf("%s: is taken as %+v", name, s)
		}
	}
}

func TestKeysThatAreNone(t *testing.T) {
	private, public, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "public": public, "words": []byte("key"), "two": append(bytes.Clone(private), private...),
		"cut": private[:len(private)-10],
	} {
		if _, err := ParsePrivateKey(text); err == nil {
			t.Errorf("private, %s: is taken", name)
		}
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "private": private, "words": []byte("key"), "words after": append(bytes.Clone(public), "key"...),
	} {
		if _, err := ParsePublicKeys(text); err == nil {
			t.Errorf("public, %s: is taken", name)
		}
	}
}
