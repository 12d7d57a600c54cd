package inspection

import (
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// TerminalJSON escapes, in JSON, what encoding/json leaves as it is and a terminal may
// act on: what is not ASCII stands in strings only.
func TerminalJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1: // no UTF-8: a byte that a terminal may obey
			out = append(out, `\ufffd`...)
		case r < 0x7f || unicode.IsPrint(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}
