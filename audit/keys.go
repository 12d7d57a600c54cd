package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	keyName          = "audit.key"
	verifierName     = "audit.pub"
	rememberedName   = "audit.checkpoint"
	originPrefix     = "execgate/audit/"
	maxKeyBytes      = 4096
	maxVerifierBytes = 4096
)

// logIdentity is who the log is: its id, and the key that signs for it.
type logIdentity struct {
	id       [logIDBytes]byte
	signer   note.Signer
	verifier note.Verifier
	public   string // the verifier as text
}

// origin returns the first line of the log's checkpoints, which is also the
// name of its keys.
func (i logIdentity) origin() string { return originPrefix + hex.EncodeToString(i.id[:]) }

// loadIdentity reads the signing key in dir. Where there is none it makes one
// and a new log id; whether that is right is for the caller to know.
func loadIdentity(fsys FileSystem, dir string) (id logIdentity, made bool, err error) {
	path := filepath.Join(dir, keyName)
	info, err := fsys.Identify(path)
	if errors.Is(err, fs.ErrNotExist) {
		id, err = makeIdentity(fsys, dir)
		return id, true, err
	}
	if err != nil {
		return logIdentity{}, false, fmt.Errorf("look for the audit log's key: %w", err)
	}
	if info.Mode&0o077 != 0 {
		return logIdentity{}, false, fmt.Errorf("%s has mode %04o and can be read by others: run chmod 600, and treat the key as known if others use this machine", path, info.Mode)
	}
	secret, err := readHead(fsys, path, maxKeyBytes)
	if err != nil {
		return logIdentity{}, false, fmt.Errorf("read the audit log's key: %w", err)
	}
	public, err := readHead(fsys, filepath.Join(dir, verifierName), maxVerifierBytes)
	if err != nil {
		return logIdentity{}, false, fmt.Errorf("read the audit log's verifier key: %w", err)
	}
	id, err = parseIdentity(strings.TrimSpace(string(secret)), strings.TrimSpace(string(public)))
	if err != nil {
		return logIdentity{}, false, fmt.Errorf("parse the audit log's keys in %s: %w", dir, err)
	}
	return id, false, nil
}

// makeIdentity makes a log id and a key, and writes both keys to dir. The
// verifier is written first: a signing key without it would not be usable.
func makeIdentity(fsys FileSystem, dir string) (logIdentity, error) {
	var random [logIDBytes]byte
	rand.Read(random[:])
	secret, public, err := note.GenerateKey(rand.Reader, originPrefix+hex.EncodeToString(random[:]))
	if err != nil {
		return logIdentity{}, fmt.Errorf("make the audit log's key: %w", err)
	}
	if err := replaceFile(fsys, dir, verifierName, []byte(public+"\n"), 0o644); err != nil {
		return logIdentity{}, err
	}
	if err := replaceFile(fsys, dir, keyName, []byte(secret+"\n"), 0o600); err != nil {
		return logIdentity{}, err
	}
	return parseIdentity(secret, public)
}

func parseIdentity(secret, public string) (logIdentity, error) {
	signer, err := note.NewSigner(secret)
	if err != nil {
		// note's errors do not hold the key; this one is said anew all the same.
		return logIdentity{}, fmt.Errorf("%s is not a signing key of sumdb/note", keyName)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return logIdentity{}, fmt.Errorf("%s is not a verifier key of sumdb/note: %w", verifierName, err)
	}
	if signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash() {
		return logIdentity{}, fmt.Errorf("%s and %s do not belong together", keyName, verifierName)
	}
	id := logIdentity{signer: signer, verifier: verifier, public: public}
	id.id, err = parseOrigin(verifier.Name())
	return id, err
}

// parseOrigin returns the log id that an origin names.
func parseOrigin(origin string) (id [logIDBytes]byte, err error) {
	text, ok := strings.CutPrefix(origin, originPrefix)
	raw, decodeErr := hex.DecodeString(text)
	if !ok || decodeErr != nil || len(raw) != logIDBytes {
		return id, fmt.Errorf("%q is not the origin of an audit log", origin)
	}
	return [logIDBytes]byte(raw), nil
}
