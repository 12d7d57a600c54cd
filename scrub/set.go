package scrub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Marker stands where a secret stood.
const Marker = "[redacted]"

// MinLength is the floor on a value's length in bytes, without the white space
// around it. A shorter one occurs in innocent text, and masking it would tell
// where it does. Eight is the least that NIST SP 800-63B (5.1.1.1) allows for a
// secret that people choose; what machines make is longer.
const MinLength = 8

// MaxLength bounds one value, and maxTotal all of a Set with its forms, in bytes.
// Certificates with their chains and keys have less. A Set takes some 500 bytes of
// memory for each byte of a value, and its graph has at most 2^24 nodes.
const (
	MaxLength = 16 << 10
	maxTotal  = 64 << 10
)

// maxRepeats bounds how often the beginning of a value may begin anew within itself,
// as that of "------" does at each byte: so many matches would be under way at once,
// and a text made for the purpose would slow the search down by as much. What has more
// is a ruler or a row of zeros, and no secret.
const maxRepeats = 32

// Set knows secrets, in all their forms. It does not change and may be used by
// any number of goroutines. The zero Set and the nil Set know none and change
// nothing. A Set does not print, log or marshal.
type Set struct{ m *matcher }

// NewSet returns the Set of values. An error says which value was refused, by its
// place and never by its content: one that is shorter than MinLength or longer than
// MaxLength, that is a part of Marker, or that is one short piece over and over. Whoever gets one must not use that secret.
func NewSet(values ...string) (*Set, error) { return (*Set)(nil).With(values...) }

// With returns a Set that knows values beside all that s knows; s stays as it is.
// The errors are those of NewSet.
func (s *Set) With(values ...string) (*Set, error) {
	var all []string
	if m := s.matcher(); m != nil {
		all = slices.Clone(m.values)
	}
	for i, value := range values {
		if err := check(value); err != nil {
			return nil, fmt.Errorf("scrub: value %d of %d: %w", i+1, len(values), err)
		}
		if !slices.Contains(all, value) {
			all = append(all, value)
		}
	}
	total := 0
	for _, value := range all {
		for _, form := range forms(value) {
			total += len(form)
		}
	}
	if total > maxTotal {
		return nil, fmt.Errorf("scrub: the values have more than %d bytes together", maxTotal)
	}
	if len(all) == 0 {
		return &Set{}, nil
	}
	return &Set{compile(all)}, nil
}

func check(value string) error {
	core := strings.TrimSpace(value)
	switch {
	case len(core) < MinLength:
		return fmt.Errorf("it has less than %d bytes without the white space around it, and masking it would mask innocent text", MinLength)
	case len(value) > MaxLength:
		return fmt.Errorf("it has more than %d bytes", MaxLength)
	case max(repeats(value), repeats(core)) > maxRepeats:
		return fmt.Errorf("it repeats its beginning more than %d times, and masking it would mask innocent text", maxRepeats)
	case strings.Contains(Marker, core):
		return errors.New("it is a part of " + Marker + ", which stands for secrets")
	}
	return nil
}

// repeats returns how many matches of value may be under way at once beside the one
// that began first: the borders of its prefixes (Knuth, Morris and Pratt, 1977).
func repeats(value string) int {
	border := make([]int, len(value)+1) // of each prefix, the longest
	count := make([]int, len(value)+1)  // of each prefix, all of them
	most, k := 0, 0
	for n := 2; n <= len(value); n++ {
		for k > 0 && value[k] != value[n-1] {
			k = border[k]
		}
		if value[k] == value[n-1] {
			k++
			count[n] = count[k] + 1
		}
		border[n] = k
		most = max(most, count[n])
	}
	return most
}

// matcher returns what finds the secrets, nil if there are none.
func (s *Set) matcher() *matcher {
	if s == nil {
		return nil
	}
	return s.m
}

// Bytes returns p without the secrets: p itself where there are none, and a new
// slice otherwise. p is not changed.
func (s *Set) Bytes(p []byte) []byte {
	m := s.matcher()
	if m == nil {
		return p
	}
	st := stream{m: m}
	st.scan(p, 0)
	if len(st.masks) == 0 {
		return p
	}
	return st.render(make([]byte, 0, len(p)), p, len(p))
}

// Text is Bytes for strings.
func (s *Set) Text(text string) string {
	if s.matcher() == nil {
		return text
	}
	return string(s.Bytes([]byte(text)))
}

// forms returns value and what else is to be sought in its place, as far as that could
// be a value itself.
func forms(value string) []string {
	all := []string{value}
	add := func(form string) {
		if len(strings.TrimSpace(form)) >= MinLength && repeats(form) <= maxRepeats && !slices.Contains(all, form) {
			all = append(all, form)
		}
	}
	add(strings.TrimSpace(value))
	for _, form := range all { // read as text and written by a system that has "\n"
		add(strings.ReplaceAll(form, "\r\n", "\n"))
	}
	for _, form := range all {
		// Encoders of text put U+FFFD where there is no UTF-8. What is left must be
		// long enough by itself, as any text may have such marks.
		if !utf8.ValidString(form) && len(strings.TrimSpace(strings.ToValidUTF8(form, ""))) >= MinLength {
			add(lossy(form))
		}
	}
	return all
}

// lossy returns value with U+FFFD for each byte that is no UTF-8, as
// encoding/json has it.
func lossy(value string) string {
	var b strings.Builder
	for _, r := range value {
		b.WriteRune(r)
	}
	return b.String()
}
