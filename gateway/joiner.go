package gateway

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// joiner turns bytes that come in pieces into valid UTF-8, also where a
// character is split between two pieces. What is not UTF-8 becomes U+FFFD, a run
// of it one: all that add and rest return, joined, is what text makes of all the
// bytes at once.
type joiner struct {
	held    []byte // the beginning of a character, at most three bytes
	invalid bool   // the last thing was a run of what is not UTF-8
}

// add returns the text of piece, but for a character that it does not end.
func (j *joiner) add(piece []byte) string {
	if len(j.held) == 0 && !j.invalid && utf8.Valid(piece) {
		return string(piece)
	}
	p := append(j.held, piece...)
	var out strings.Builder
	for len(p) > 0 && utf8.FullRune(p) {
		r, size := utf8.DecodeRune(p)
		switch {
		case r != utf8.RuneError || size > 1:
			j.invalid = false
			out.Write(p[:size])
		case !j.invalid:
			j.invalid = true
			out.WriteRune(utf8.RuneError)
		}
		p = p[size:]
	}
	j.held = bytes.Clone(p)
	return out.String()
}

// rest returns what the end of the stream makes of a character without its end.
func (j *joiner) rest() string {
	broken := len(j.held) > 0 && !j.invalid
	*j = joiner{}
	if broken {
		return string(utf8.RuneError)
	}
	return ""
}
