package execution

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// Secret holds a value that must not be seen. It prints, formats and logs as
// "[secret]" and refuses to be marshalled; Reveal is the one way out, so that
// every place where a secret leaves is found by searching for that name.
// The zero Secret is empty.
type Secret struct{ value string }

const redacted = "[secret]"

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value. The caller must put it nowhere but where it is due.
func (s Secret) Reveal() string { return s.value }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.value), []byte(other.value)) == 1
}

// String implements fmt.Stringer without giving the value away.
func (s Secret) String() string { return redacted }

// Format implements fmt.Formatter, so that no verb reaches the field.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a secret has no place in a document.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret cannot be marshalled")
}

// MarshalJSON refuses, as MarshalText does.
func (s Secret) MarshalJSON() ([]byte, error) { return s.MarshalText() }
