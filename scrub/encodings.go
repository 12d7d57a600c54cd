package scrub

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escaping says how a text treats the two characters that begin an escape. Each
// value has one meaning for them in all of a text, so that a reader never
// has two ways to go on with one value.
type escaping struct {
	percent   bool // "%" is escaped, too; otherwise it stands for itself
	backslash bool // "\" is escaped, too, and begins an escape elsewhere; otherwise it stands for itself
}

// escapings returns the ways in which value has to be sought as text. They differ only
// for values that have the characters in question.
func escapings(value string) []escaping {
	ways := []escaping{{percent: true, backslash: true}}
	if strings.Contains(value, "%") {
		ways = append(ways, escaping{backslash: true})
	}
	if strings.Contains(value, `\`) {
		for _, way := range ways {
			ways = append(ways, escaping{percent: way.percent})
		}
	}
	return ways
}

// short has the escapes of two characters: those of JSON (RFC 8259, section 7),
// and what Go, Python and JavaScript write for "'", \a and \v.
var short = map[byte]string{
	'"': `\"`, '\\': `\\`, '/': `\/`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`,
	'\'': `\'`, '\a': `\a`, '\v': `\v`,
}

// addText adds value as text, any of its characters escaped.
func (b *builder) addText(value string, way escaping) {
	path := b.path(b.text[way], value)
	for i := range len(value) {
		c, from, to := value[i], path[i], path[i+1]
		b.addByte(from, c, to, way)
		if c == '\n' { // written by a system that has "\r\n"
			b.alternative(from, "\r\n", to)
			b.alternative(from, "%0d%0a", to)
			if way.backslash {
				b.alternative(from, `\r\n`, to)
			}
		}
		if !way.backslash {
			continue
		}
		r, size := utf8.DecodeRuneInString(value[i:])
		switch {
		case r == utf8.RuneError && size == 1:
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b.alternative(from, fmt.Sprintf(`\u%04x\u%04x`, high, low), path[i+size])
			b.alternative(from, fmt.Sprintf(`\U%08x`, r), path[i+size]) // Go and Python
		default:
			b.alternative(from, fmt.Sprintf(`\u%04x`, r), path[i+size])
		}
	}
	b.finish(path[len(value)])
}

// addByte adds what may stand for c alone.
func (b *builder) addByte(from uint32, c byte, to uint32, way escaping) {
	if (c != '%' || !way.percent) && (c != '\\' || !way.backslash) {
		b.literal(from, string([]byte{c}), to)
	}
	if c != '%' || way.percent {
		b.alternative(from, fmt.Sprintf("%%%02x", c), to)
	}
	if c == ' ' {
		b.literal(from, "+", to) // application/x-www-form-urlencoded
	}
	if !way.backslash {
		return
	}
	if escape, ok := short[c]; ok {
		b.literal(from, escape, to)
	}
	if c < ' ' || c >= 0x7f {
		b.alternative(from, fmt.Sprintf(`\x%02x`, c), to)
	}
}

// addHex adds value as hex digits.
func (b *builder) addHex(value string) {
	digits := fmt.Sprintf("%x", value)
	path := b.path(b.hex, digits)
	for i := range len(digits) {
		b.alternative(path[i], digits[i:i+1], path[i+1])
	}
	b.finish(path[len(digits)])
}

// breaks may stand between two characters of base64 (RFC 2045, section 6.8).
var breaks = []string{"\n", "\r\n", `\n`, `\r\n`}

// brokenLine is the unit of a path for what follows a line break.
const brokenLine = 256

// addBase64 adds the characters of base64 that value alone decides when skip
// bytes, modulo three, stand before it.
func (b *builder) addBase64(value string, skip int) {
	text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", skip) + value))
	// A character has 6 bits: the first whole one begins behind those of what stands before.
	text = text[(8*skip+5)/6 : 8*(skip+len(value))/6]
	path := b.path(b.base64, text)
	for i := range len(text) {
		b.addSextet(path[i], text[i], path[i+1])
		if i == 0 {
			continue
		}
		broken := b.child(path[i], brokenLine)
		for _, lineBreak := range breaks {
			b.literal(path[i], lineBreak, broken)
		}
		b.addSextet(broken, text[i], path[i+1])
	}
	b.finish(path[len(text)])
}

// addSextet adds what may stand for one character of standard base64. The
// URL-safe alphabet is that of RFC 4648, section 5.
func (b *builder) addSextet(from uint32, c byte, to uint32) {
	b.literal(from, string([]byte{c}), to)
	switch c {
	case '+':
		b.literal(from, "-", to)
		b.alternative(from, "%2b", to)
		b.alternative(from, `\u002b`, to)
	case '/':
		b.literal(from, "_", to)
		b.literal(from, `\/`, to)
		b.alternative(from, "%2f", to)
		b.alternative(from, `\u002f`, to)
	}
}
