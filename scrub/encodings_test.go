package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// specimens are secrets with everything in them that encoders treat in a way of its own.
var specimens = map[string][]string{
	"token":        {"hvs.CAESIJzZ0nYxk3vQ7mPw"},
	"password":     {`pa55%word+"with"\back/slash`},
	"blanks":       {"correct horse battery staple"},
	"utf8":         {"pässwörd-🔑-schlüssel"},
	"control":      {"nul\x00tab\tbell\adel\x7fesc\x1b"},
	"html":         {"<tag>&'quoted'\u2028"},
	"binary":       {"\xf0\x9d\x01key\xc3\x28bytes\xfe0123"},
	"key":          {"-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ\nabc/+==\n-----END KEY-----\n"},
	"crlf":         {"first line\r\nsecond line\r\n"},
	"percent":      {"%41%42%43%25%2541"},
	"backslashes":  {`\\\\\\\\\\`, `C:\users\nobody`},
	"floor":        {"8 bytes!"},
	"inside":       {"abcdefghijkl", "cdefghij"},
	"beginning":    {"abcdefgh", "abcdefghijkl"},
	"end":          {"efghijkl", "abcdefghijkl"},
	"overlapping":  {"abcdefgh", "efghijkl"},
	"repetitive":   {"aaaaaaaaaa", "abababababab"},
	"base64 marks": {"\xfb\xef\xbe\xff\xff\xff\xfb\xef\xbe"},
}

// Each form in which the usual encoders write a secret is masked, alone and within
// text, and nothing beside it is.
func TestEncodings(t *testing.T) {
	forms := map[string]func(string) string{
		"raw":                       func(s string) string { return s },
		"hex":                       func(s string) string { return hex.EncodeToString([]byte(s)) },
		"hex, upper case":           func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"percent, all":              func(s string) string { return percent(s, "%%%02X", "") },
		"percent, all, lower case":  func(s string) string { return percent(s, "%%%02x", "") },
		"url.QueryEscape":           url.QueryEscape,
		"url.PathEscape":            url.PathEscape,
		"lower case QueryEscape":    func(s string) string { return percent(s, "%%%02x", "-_.~") },
		"encodeURIComponent":        func(s string) string { return percent(s, "%%%02X", "-_.!~*'()") },
		"encodeURI":                 func(s string) string { return percent(s, "%%%02X", "-_.!~*'();/?:@&=+$,#") },
		"browser, in a query":       func(s string) string { return percent(s, "%%%02X", "!$%&()*+,-./:;=?@[\\]^_`{|}~") },
		"Python's quote":            func(s string) string { return percent(s, "%%%02X", "/-_.~") },
		"encoding/json":             func(s string) string { return goJSON(s, true) },
		"encoding/json, not HTML":   func(s string) string { return goJSON(s, false) },
		"Python's json.dumps":       asciiJSON,
		"PHP's json_encode":         func(s string) string { return strings.ReplaceAll(asciiJSON(s), "/", `\/`) },
		"each character by \\u":     func(s string) string { return escapeAll(s, `\u%04x`) },
		"each character, upper":     func(s string) string { return escapeAll(s, `\u%04X`) },
		"strconv.Quote":             func(s string) string { q := strconv.Quote(s); return q[1 : len(q)-1] },
		"strconv.QuoteToASCII":      func(s string) string { q := strconv.QuoteToASCII(s); return q[1 : len(q)-1] },
		"line ends of Windows":      func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"without white space":       strings.TrimSpace,
		"line ends of Unix":         func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") },
		"line ends of Unix in JSON": func(s string) string { return goJSON(strings.ReplaceAll(s, "\r\n", "\n"), true) },
	}
	for name, values := range specimens {
		set := newSet(t, values...)
		for encoder, encode := range forms {
			for _, value := range values {
				encoded := encode(value)
				text := "before: (" + encoded + ") after"
				got := set.Text(text)
				want := "before: (" + Marker + ") after"
				if strings.Contains(strings.ToLower(encoded), `\ufffd`) && len(strings.ToValidUTF8(value, "")) < MinLength {
					want = text // it says too little of the secret
				}
				if got != want {
					t.Errorf("%s, by %s: %q became %q, want %q", name, encoder, text, got, want)
				}
				if got := inChunks(t, set, text, []byte{0}); got != set.Text(text) {
					t.Errorf("%s, by %s, byte by byte: %q", name, encoder, got)
				}
			}
		}
	}
}

// In base64 of longer text, what does not depend on the neighbours is masked: the
// most that can be known of it.
func TestBase64InLongerText(t *testing.T) {
	encodings := map[string]*base64.Encoding{
		"standard": base64.StdEncoding, "raw": base64.RawStdEncoding,
		"URL-safe": base64.URLEncoding, "raw URL-safe": base64.RawURLEncoding,
	}
	for name, values := range specimens {
		set := newSet(t, values...)
		for encoder, encoding := range encodings {
			for before := range 7 {
				for after := range 4 {
					value := values[0]
					encoded := encoding.EncodeToString([]byte("\x01\x02\x03\x04\x05\x06\x07"[:before] + value + "\x81\x82\x83\x84"[:after]))
					first, end := (8*before+5)/6, (before+len(value))*8/6
					want := encoded[:first] + Marker + encoded[end:]
					if strings.TrimSpace(value) != value {
						continue // TestObvious has it
					}
					if got := set.Text(encoded); got != want {
						t.Errorf("%s, %s, %d bytes before and %d after: %q became %q, want %q", name, encoder, before, after, encoded, got, want)
					}
				}
			}
		}
	}
}

// Lines of MIME and of PEM break base64 wherever they are full. In a document the
// break is escaped.
func TestBase64InLines(t *testing.T) {
	value := strings.Repeat("0123456789 abcdefghij?>~", 5)
	set := newSet(t, value)
	for _, lineBreak := range []string{"\n", "\r\n", `\n`, `\r\n`} {
		for _, width := range []int{1, 2, 19, 64, 76} {
			encoded := base64.StdEncoding.EncodeToString([]byte(value)) // no padding
			if got := set.Text("<" + wrapped(encoded, width, lineBreak) + ">"); got != "<"+Marker+">" {
				t.Errorf("broken by %q after each %d characters: %q", lineBreak, width, got)
			}
		}
	}
}

// The two characters that are no letters or digits have other forms, and encoders of
// what base64 stands in may escape them.
func TestBase64Marks(t *testing.T) {
	value := specimens["base64 marks"][0]
	if got := base64.StdEncoding.EncodeToString([]byte(value)); got != "++++////++++" {
		t.Fatalf("the value's base64 is %s", got)
	}
	for _, text := range []string{
		"++++////++++", "----____----", `++++\/\/\/\/++++`, "%2B%2B%2b%2b%2F%2f%2F%2F%2B%2B%2B%2B", `\u002b\u002B++//\u002f/++++`,
	} {
		if got := newSet(t, value).Text("<" + text + ">"); got != "<"+Marker+">" {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// All encoders of the fuzzed programs, beside each other and held against
// the obvious scrubber.
func TestObvious(t *testing.T) {
	for name, values := range specimens {
		set := newSet(t, values...)
		for i, encode := range encoders {
			for _, value := range values {
				encoded := encode(value)
				for _, text := range []string{encoded, encoded + encoded, "a" + encoded + "b", encoded[1:], encoded[:len(encoded)-1], encoded[:len(encoded)/2] + encoded} {
					if got, want := set.Text(text), obvious(values, text); got != want {
						t.Errorf("%s, encoder %d: %q\nbecame %q\nwant   %q", name, i, text, got, want)
					}
				}
			}
		}
	}
}

func newSet(t testing.TB, values ...string) *Set {
	t.Helper()
	set, err := NewSet(values...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// percent escapes all bytes but letters and digits, where safe is not empty, and those
// in safe.
func percent(s, format, safe string) string {
	var b strings.Builder
	for i := range len(s) {
		alphanumeric := '0' <= s[i] && s[i] <= '9' || 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		if safe != "" && (alphanumeric || strings.IndexByte(safe, s[i]) >= 0) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, format, s[i])
		}
	}
	return b.String()
}

func goJSON(s string, html bool) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(html)
	if err := encoder.Encode(s); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String()[1:], "\"\n")
}

// asciiJSON is what Python writes by default, in quotation marks of its own.
func asciiJSON(s string) string {
	var b strings.Builder
	for _, r := range goJSON(s, false) {
		if r < 0x80 && r != 0x7f {
			b.WriteRune(r)
		} else {
			b.WriteString(escapeAll(string(r), `\u%04x`))
		}
	}
	return b.String()
}

func escapeAll(s, format string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&b, format, unit)
	}
	return b.String()
}

func wrapped(s string, width int, lineBreak string) string {
	var lines []string
	for ; len(s) > width; s = s[width:] {
		lines = append(lines, s[:width])
	}
	return strings.Join(append(lines, s), lineBreak)
}
