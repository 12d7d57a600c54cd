package scrub

import (
	"errors"
	"fmt"
	"log/slog"
)

const unprintable = "[secrets]"

var errMarshal = errors.New("secrets cannot be marshalled")

// String implements fmt.Stringer without giving a value away.
func (s Set) String() string { return unprintable }

// Format implements fmt.Formatter, so that no verb reaches the values.
func (s Set) Format(f fmt.State, _ rune) { fmt.Fprint(f, unprintable) }

// LogValue implements slog.LogValuer.
func (s Set) LogValue() slog.Value { return slog.StringValue(unprintable) }

// MarshalText refuses: a secret has no place in a document.
func (s Set) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON refuses, as MarshalText does.
func (s Set) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// MarshalBinary refuses, as MarshalText does.
func (s Set) MarshalBinary() ([]byte, error) { return nil, errMarshal }

// Format implements fmt.Formatter: what a Writer holds back may be a secret.
func (w *Writer) Format(f fmt.State, _ rune) { fmt.Fprint(f, unprintable) }

// LogValue implements slog.LogValuer, as Format.
func (w *Writer) LogValue() slog.Value { return slog.StringValue(unprintable) }

// MarshalText refuses, as that of a Set does.
func (w *Writer) MarshalText() ([]byte, error) { return nil, errMarshal }
