package scrub

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// obvious is a slow scrubber: it tries to read each secret at each position of the
// text, by decoding what is there, and masks what it could read.
func obvious(values []string, text string) string {
	masked := make([]bool, len(text))
	for _, value := range values {
		for _, form := range obviousForms(value) {
			for from := range len(text) {
				for _, to := range readings(form, text, from) {
					for i := from; i < to; i++ {
						masked[i] = true
					}
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !masked[i]:
			b.WriteByte(text[i])
		case i == 0 || !masked[i-1]:
			b.WriteString(Marker)
		}
	}
	return b.String()
}

// obviousForms returns the value with and without white space around it, "\r\n" and
// U+FFFD for what is no UTF-8.
func obviousForms(value string) []string {
	forms := []string{value}
	for _, trim := range []bool{false, true} {
		for _, lf := range []bool{false, true} {
			for _, lossy := range []bool{false, true} {
				form := value
				if trim {
					form = strings.TrimSpace(form)
				}
				if lf {
					form = strings.ReplaceAll(form, "\r\n", "\n")
				}
				rest := form
				if lossy {
					rest = strings.ToValidUTF8(form, "")
					form = string([]rune(form))
				}
				if len(strings.TrimSpace(rest)) >= MinLength && repeats(form) <= maxRepeats && !slices.Contains(forms, form) {
					forms = append(forms, form)
				}
			}
		}
	}
	return forms
}

// readings returns where the readings of value that begin at from end.
func readings(value, text string, from int) []int {
	var ends []int
	for _, percent := range []bool{true, false} {
		for _, backslash := range []bool{true, false} {
			ends = append(ends, readText(value, text, from, percent, backslash)...)
		}
	}
	if to := from + 2*len(value); to <= len(text) {
		if decoded, err := hex.DecodeString(text[from:to]); err == nil && string(decoded) == value {
			ends = append(ends, to)
		}
	}
	for skip := range 3 {
		if to, ok := readBase64(value, text, from, skip); ok {
			ends = append(ends, to)
		}
	}
	return ends
}

func readText(value, text string, from int, percent, backslash bool) []int {
	if value == "" {
		return []int{from}
	}
	var ends []int
	for _, r := range readUnit(text[from:], percent, backslash) {
		if rest, ok := strings.CutPrefix(value, r.as); ok {
			ends = append(ends, readText(rest, text, from+r.bytes, percent, backslash)...)
		}
	}
	return ends
}

type reading struct {
	as    string
	bytes int
}

// readUnit returns as what the beginning of text can be read.
func readUnit(text string, percent, backslash bool) []reading {
	if text == "" {
		return nil
	}
	var all []reading
	if (text[0] != '%' || !percent) && (text[0] != '\\' || !backslash) {
		all = append(all, reading{text[:1], 1})
	}
	if text[0] == '+' {
		all = append(all, reading{" ", 1})
	}
	if strings.HasPrefix(text, "\r\n") {
		all = append(all, reading{"\n", 2})
	}
	if b, ok := number(text, "%", 2); ok && (b != '%' || percent) {
		all = append(all, reading{string([]byte{byte(b)}), 3})
		if second, ok := number(text[3:], "%", 2); ok && b == '\r' && second == '\n' {
			all = append(all, reading{"\n", 6})
		}
	}
	if backslash {
		all = append(all, readEscape(text)...)
	}
	return all
}

func readEscape(text string) []reading {
	var all []reading
	if len(text) > 1 && text[0] == '\\' {
		if i := strings.IndexByte(`"\/bfnrt'av`, text[1]); i >= 0 {
			all = append(all, reading{"\"\\/\b\f\n\r\t'\a\v"[i : i+1], 2})
		}
	}
	if strings.HasPrefix(text, `\r\n`) {
		all = append(all, reading{"\n", 4})
	}
	if b, ok := number(text, `\x`, 2); ok && (b < ' ' || b >= 0x7f) {
		all = append(all, reading{string([]byte{byte(b)}), 4})
	}
	if r, ok := number(text, `\u`, 4); ok {
		if !utf16.IsSurrogate(r) {
			all = append(all, reading{string(r), 6})
		} else if low, ok := number(text[6:], `\u`, 4); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				all = append(all, reading{string(both), 12})
			}
		}
	}
	if r, ok := number(text, `\U`, 8); ok && r > 0xffff && utf8.ValidRune(r) {
		all = append(all, reading{string(r), 10})
	}
	return all
}

// number reads so many hex digits behind a prefix.
func number(text, prefix string, digits int) (rune, bool) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok || len(rest) < digits || strings.ContainsAny(rest[:digits], "+-_") {
		return 0, false
	}
	n, err := strconv.ParseUint(rest[:digits], 16, 32)
	return rune(n), err == nil
}

func readBase64(value, text string, from, skip int) (int, bool) {
	characters := base64.RawStdEncoding.EncodeToString([]byte("xx"[:skip] + value))
	first, end := []int{0, 2, 3}[skip], (skip+len(value))*8/6
	at := from
	for i := first; i < end; i++ {
		if i > first {
			for _, lineBreak := range []string{`\r\n`, `\n`, "\r\n", "\n"} {
				if strings.HasPrefix(text[at:], lineBreak) {
					at += len(lineBreak)
					break
				}
			}
		}
		spellings := []string{characters[i : i+1]}
		switch characters[i] {
		case '+':
			spellings = append(spellings, "-", "%2b", "%2B", `\u002b`, `\u002B`)
		case '/':
			spellings = append(spellings, "_", `\/`, "%2f", "%2F", `\u002f`, `\u002F`)
		}
		n := slices.IndexFunc(spellings, func(s string) bool { return strings.HasPrefix(text[at:], s) })
		if n < 0 {
			return 0, false
		}
		at += len(spellings[n])
	}
	return at, true
}
