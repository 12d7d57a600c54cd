package execution

import (
	"crypto/rand"
	"encoding/binary"
	"strings"
	"time"
)

// The prefixes of the identifiers the API hands out.
const (
	PrefixExecution = "ex_"
	PrefixKey       = "ak_"
	PrefixSession   = "se_"
	PrefixApproval  = "ap_"
)

// crockford is the alphabet of a ULID (github.com/ulid/spec): base 32 without
// the letters that are mistaken for digits.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// ulidLength is the length of an encoded ULID, in characters.
const ulidLength = 26

// NewID returns prefix followed by a new ULID: 48 bits of milliseconds and 80
// random bits, so that identifiers sort by the time they were made and cannot
// be guessed.
func NewID(prefix string, now time.Time) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(now.UnixMilli())<<16)
	// crypto/rand.Read never returns an error; it ends the program instead.
	rand.Read(raw[6:])

	hi, lo := binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])
	var text [ulidLength]byte
	for i := ulidLength - 1; i >= 0; i-- {
		text[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return prefix + string(text[:])
}

// ValidID reports whether id is prefix followed by a well-formed ULID.
func ValidID(prefix, id string) bool {
	text, ok := strings.CutPrefix(id, prefix)
	if !ok || len(text) != ulidLength || text[0] > '7' {
		return false
	}
	for i := range len(text) {
		if strings.IndexByte(crockford, text[i]) < 0 {
			return false
		}
	}
	return true
}
