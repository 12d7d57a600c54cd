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
	nextKeyName      = "audit.key.next"
	nextVerifierName = "audit.pub.next"
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
	id, err = readIdentity(fsys, dir, keyName, verifierName)
	if errors.Is(err, errKeysDiffer) {
		// A rotation may have broken off between its last two steps.
		next, nextErr := readIdentity(fsys, dir, keyName, nextVerifierName)
		if nextErr == nil {
			return next, false, moveFile(fsys, dir, nextVerifierName, verifierName)
		}
	}
	return id, false, err
}

// readIdentity reads a signing key and the verifier key that belongs to it.
func readIdentity(fsys FileSystem, dir, key, verifier string) (logIdentity, error) {
	secret, err := readHead(fsys, filepath.Join(dir, key), maxKeyBytes)
	if err != nil {
		return logIdentity{}, fmt.Errorf("read the audit log's key: %w", err)
	}
	public, err := readHead(fsys, filepath.Join(dir, verifier), maxVerifierBytes)
	if err != nil {
		return logIdentity{}, fmt.Errorf("read the audit log's verifier key: %w", err)
	}
	id, err := parseIdentity(strings.TrimSpace(string(secret)), strings.TrimSpace(string(public)))
	if err != nil {
		return logIdentity{}, fmt.Errorf("parse the audit log's keys in %s: %w", dir, err)
	}
	return id, nil
}

// errKeysDiffer says that a signing key and a verifier key do not belong together.
var errKeysDiffer = errors.New("the keys do not belong together")

// makeIdentity makes a log id and a key, and writes both keys to dir. The
// verifier is written first: a signing key without it would not be usable.
func makeIdentity(fsys FileSystem, dir string) (logIdentity, error) {
	var random [logIDBytes]byte
	rand.Read(random[:])
	return makeKey(fsys, dir, originPrefix+hex.EncodeToString(random[:]), keyName, verifierName)
}

// makeKey makes a key for the log that origin names, and writes it to dir.
func makeKey(fsys FileSystem, dir, origin, key, verifier string) (logIdentity, error) {
	secret, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return logIdentity{}, fmt.Errorf("make the audit log's key: %w", err)
	}
	if err := replaceFile(fsys, dir, verifier, []byte(public+"\n"), 0o644); err != nil {
		return logIdentity{}, err
	}
	if err := replaceFile(fsys, dir, key, []byte(secret+"\n"), 0o600); err != nil {
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
		return logIdentity{}, fmt.Errorf("%s, %s: %w", keyName, verifierName, errKeysDiffer)
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
