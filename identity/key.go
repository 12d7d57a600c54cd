package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// The form of an API key, of which there is exactly one spelling:
//
//	ak_01K5W3V8X2Q4N6P7R9S0T1V2W3.Zm9v…
//	|  |                          |
//	|  |                          43 characters: 32 random bytes in base64url, no padding (RFC 4648)
//	|  26 characters: a ULID
//	the prefix that lets scanners of leaked secrets know it
//
// What stands before the dot is the key's id: it is public, and stands in
// records and in lists.
const (
	secretBytes  = 32
	secretLength = 43
	keyLength    = len(execution.PrefixKey) + 26 + 1 + secretLength
)

// secretEncoding is strict: without it the last character would have four
// spellings, and one key four strings.
var secretEncoding = base64.RawURLEncoding.Strict()

// parseKey takes an API key apart into its id and the hash of its secret. It
// reports false for anything that is not exactly a key in its one spelling.
func parseKey(credential execution.Secret) (id string, hash [32]byte, ok bool) {
	text := credential.Reveal()
	if len(text) != keyLength {
		return "", hash, false
	}
	id, encoded, found := strings.Cut(text, ".")
	if !found || len(encoded) != secretLength || !execution.ValidID(execution.PrefixKey, id) {
		return "", hash, false
	}
	// The decoder skips line breaks; what is then too short is not a key.
	secret, err := secretEncoding.DecodeString(encoded)
	if err != nil || len(secret) != secretBytes {
		return "", hash, false
	}
	return id, sha256.Sum256(secret), true
}

// newKey makes a key's id, its whole text, and the hash of its secret.
func newKey(now time.Time) (id string, whole execution.Secret, hash [32]byte) {
	var secret [secretBytes]byte
	rand.Read(secret[:]) // never fails; it ends the program instead
	id = execution.NewID(execution.PrefixKey, now)
	return id, execution.NewSecret(id + "." + secretEncoding.EncodeToString(secret[:])), sha256.Sum256(secret[:])
}
