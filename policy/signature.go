package policy

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// SignatureName is the file of a bundle that holds its signature. It is itself no
// part of what is signed.
const SignatureName = ".signature.json"

const (
	maxSignatureBytes = 4 << 10
	signatureVersion  = 1
	maxSequence       = 1<<53 - 1 // what every reader of JSON holds exactly
)

// Signature says that the holder of a key has released a bundle, and as which in
// their order. It stands in the bundle's SignatureName as
//
//	{"v": 1, "sequence": 7, "digest": "sha256:…", "key": "0123456789abcdef", "signature": "…base64…"}
//
// The signature is Ed25519 (RFC 8032) over the text
//
//	execgate policy signature 1\n<sequence>\n<digest>\n
//
// with the sequence in decimal and the digest that Files.Digest gives.
type Signature struct {
	V int `json:"v"`
	// Sequence rises with every release, from 1 to 2^53-1. A gateway that asks for
	// signatures takes no bundle that does not rise above the highest it had in force.
	Sequence uint64 `json:"sequence"`
	Digest   string `json:"digest"`
	// Key names the key, as KeyID does. It chooses among several that are trusted.
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
}

func signed(sequence uint64, digest string) []byte {
	return fmt.Appendf(nil, "execgate policy signature 1\n%d\n%s\n", sequence, digest)
}

// Sign signs files as the release with that sequence.
func Sign(key ed25519.PrivateKey, files Files, sequence uint64) (*Signature, error) {
	if sequence == 0 || sequence > maxSequence {
		return nil, fmt.Errorf("the sequence is %d: it must be from 1 to 2^53-1, and rise with every release", sequence)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("it is not an Ed25519 key")
	}
	digest := files.Digest()
	return &Signature{
		V: signatureVersion, Sequence: sequence, Digest: digest, Key: KeyID(public),
		Signature: ed25519.Sign(key, signed(sequence, digest)),
	}, nil
}

// Text is the content of SignatureName.
func (s *Signature) Text() []byte {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil { // nothing in it can fail to be encoded
		return nil
	}
	return append(text, '\n')
}

// ReadSignature reads the signature of the bundle in folder; nil where there is
// none. It fails with a *BundleError where the file is not one.
func ReadSignature(folder fs.FS) (*Signature, error) {
	info, err := fs.Lstat(folder, SignatureName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, bundleErrorf("%s: is not a regular file", SignatureName)
	}
	file, err := folder.Open(SignatureName)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxSignatureBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SignatureName, err)
	}
	return parseSignature(text)
}

func parseSignature(text []byte) (*Signature, error) {
	if text == nil {
		return nil, nil
	}
	if len(text) > maxSignatureBytes {
		return nil, tooLargef("%s: is larger than %d KiB", SignatureName, maxSignatureBytes>>10)
	}
	document, err := strictJSON(text)
	if err == nil {
		err = plainKeys(document)
	}
	var s Signature
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		err = d.Decode(&s)
	}
	if err == nil && s.V != signatureVersion {
		err = fmt.Errorf("its version is %d, and %d is known", s.V, signatureVersion)
	}
	if err == nil && (s.Sequence == 0 || s.Sequence > maxSequence) {
		err = fmt.Errorf("its sequence is %d: it must be from 1 to 2^53-1", s.Sequence)
	}
	if err != nil {
		return nil, bundleErrorf("%s: %v", SignatureName, err)
	}
	return &s, nil
}

// Keys are the public keys whose signatures are trusted.
type Keys []ed25519.PublicKey

// Verify checks that s is a signature of a trusted key over these very files. It
// says nothing about the sequence, but that the signer meant it.
func (k Keys) Verify(files Files, s *Signature) error {
	for _, key := range k {
		if KeyID(key) != s.Key {
			continue
		}
		if digest := files.Digest(); digest != s.Digest {
			return fmt.Errorf("the signature is over %s and the files are %s: they were changed after they were signed", s.Digest, digest)
		}
		if !ed25519.Verify(key, signed(s.Sequence, s.Digest), s.Signature) {
			return errors.New("the signature is not of the key that it names")
		}
		return nil
	}
	return fmt.Errorf("the key %.32q is not one of those that are trusted", s.Key)
}

// KeyID names a key: the first 16 hex digits of the SHA-256 of its 32 bytes.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// The types of PEM blocks (RFC 7468), which openssl makes and reads too.
const (
	privateBlock = "PRIVATE KEY" // PKCS #8
	publicBlock  = "PUBLIC KEY"  // SubjectPublicKeyInfo
)

// GenerateKey makes a key pair, both as PEM.
func GenerateKey() (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the private key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: privateDER}),
		pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: publicDER}), nil
}

// ParsePrivateKey reads what GenerateKey made. The error repeats nothing of text.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != privateBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the file does not hold one private key as PEM; execgate policy keygen makes one")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	if key, ok := key.(ed25519.PrivateKey); ok {
		return key, nil
	}
	return nil, errors.New("the private key is not for Ed25519")
}

// ParsePublicKeys reads one public key or several, one after the other.
func ParsePublicKeys(text []byte) (Keys, error) {
	var keys Keys
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != publicBlock {
			return nil, errors.New("there must be public keys as PEM and nothing else; execgate policy keygen makes them")
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key %d cannot be read: %w", len(keys)+1, err)
		}
		key, ok := parsed.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("public key %d is not for Ed25519", len(keys)+1)
		}
		keys = append(keys, key)
		text = rest
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no public key")
	}
	return keys, nil
}
