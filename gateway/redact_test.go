package gateway

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

func mustRedact(t testing.TB, patterns ...string) *redaction {
	t.Helper()
	r, err := newRedaction(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPatternsThatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct {
		patterns []string
		says     string
	}{
		"none":             {nil, "from 1 to 32"},
		"too many":         {slices.Repeat([]string{"x"}, 33), "from 1 to 32"},
		"no expression":    {[]string{"("}, "no regular expression"},
		"backreference":    {[]string{`(a)\1`}, "no regular expression"},
		"look-ahead":       {[]string{`a(?=b)`}, "no regular expression"},
		"without end":      {[]string{"a+"}, "write a bound"},
		"without end, *":   {[]string{"ba*"}, "write a bound"},
		"without end, {n,": {[]string{"a{3,}"}, "write a bound"},
		"empty":            {[]string{""}, "empty"},
		"optional":         {[]string{"a?"}, "empty"},
		"nothing":          {[]string{`[^\x00-\x{10FFFF}]`}, "matches nothing"},
		"beginning":        {[]string{"^a"}, "looks around"},
		"line":             {[]string{"(?m)a$"}, "looks around"},
		"word":             {[]string{`\bab\b`}, "looks around"},
		"long":             {[]string{`a{1000}b{25}`}, "can match 1025 bytes"},
		"wide":             {[]string{`.{257}`}, "can match 1028 bytes"},
		"nested":           {[]string{`((ab){1,60}){1,10}`}, "can match 1200 bytes"},
		"nested far":       {[]string{`((a{1000}){1000}){1000}`}, "no regular expression"},
		"long text":        {[]string{strings.Repeat("a", 513)}, "more than 512 bytes"},
		"heavy together":   {slices.Repeat([]string{`[a-z]{1,250}x`}, 20), "together are too large"},
	} {
		if _, err := newRedaction(test.patterns); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

func TestRedactWholeTexts(t *testing.T) {
	for _, test := range []struct{ pattern, in, want string }{
		{"AKIA[0-9A-Z]{4}", "a AKIA1234 b AKIA12", "a [redacted] b AKIA12"},
		{"(?i)k[0-9]{2}", "K12 k34 \u212a56", "[redacted] [redacted] [redacted]"},
		{"a|ab", "ab", "[redacted]b"},
		{"aa", "aaaaa", "[redacted][redacted]a"},
		{"é.", "xéñy", "x[redacted]y"},
		{"a.b", "a\xffb", "[redacted]"},
		{"secret", "", ""},
	} {
		if got := string((&redactor{of: mustRedact(t, test.pattern)}).whole([]byte(test.in), false)); got != test.want {
			t.Errorf("%q in %q: %q, want %q", test.pattern, test.in, got, test.want)
		}
	}
	// The first in the list counts, of those that match at one place.
	if got := string((&redactor{of: mustRedact(t, "abc", "abcdef", "cd")}).whole([]byte("abcdef"), false)); got != "[redacted]def" {
		t.Errorf("%q", got)
	}
}

// stream redacts text in pieces of at most `most` bytes.
func stream(r *redaction, text string, most int, cutOff bool) string {
	s := redactor{of: r}
	var out []byte
	for len(text) > 0 {
		n := min(len(text), 1+rand.IntN(most))
		out = append(out, s.write([]byte(text[:n]))...)
		text = text[n:]
		if held := len(s.held); held >= 2*(r.longest+4)+n {
			return "holds back too much"
		}
	}
	return string(append(out, s.end(cutOff)...))
}

// Wherever a stream is cut into chunks, it comes out as the whole does.
func TestRedactAcrossChunks(t *testing.T) {
	r := mustRedact(t, "AKIA[0-9A-Z]{4}", "token=[^ \n]{1,20}", "é{1,3}ñ", "(?s)-----B.{0,30}E-----", "aab", "ab{1,9}c")
	pieces := []string{"AKIA1234", "AKIA", "token=", "x", " ", "\n", "é", "ñ", "\xc3", "\xf0\x9f", "😀", "-----B", "E-----", "a", "aa", "b", "c", "A", "K"}
	for range 3000 {
		var text strings.Builder
		for range rand.IntN(40) {
			text.WriteString(pieces[rand.IntN(len(pieces))])
		}
		want := string(r.pattern.ReplaceAllLiteral([]byte(text.String()), []byte(redacted)))
		for _, most := range []int{1, 3, 17, 1000} {
			if got := stream(r, text.String(), most, false); got != want {
				t.Fatalf("%q in pieces of %d: %q, want %q", text.String(), most, got, want)
			}
		}
		if got := string((&redactor{of: r}).whole([]byte(text.String()), false)); got != want {
			t.Fatalf("%q: %q, want %q", text.String(), got, want)
		}
	}
}

// Of a stream that was cut off at its limit no part of a secret leaves.
func TestRedactWhatWasCutOff(t *testing.T) {
	secret := "sk-0123456789"
	r := mustRedact(t, "sk-[0-9]{10}")
	for n := range len(secret) + 1 {
		text := "xyz text before it, " + secret[:n]
		got, pieces := string((&redactor{of: r}).whole([]byte(text), true)), stream(r, text, 3, true)
		if got != pieces {
			t.Errorf("whole %q, in pieces %q", got, pieces)
		}
		if n > 0 && n < len(secret) && strings.Contains(got, secret[:n]) {
			t.Errorf("cut off after %d: %q", n, got)
		}
		if !strings.HasPrefix(got, "xyz") {
			t.Errorf("%q", got)
		}
	}
}

func TestRedactResult(t *testing.T) {
	r := mustRedact(t, "4[0-9]{3}", "hidden")
	for in, want := range map[string]string{
		`"a hidden b"`:                     `"a [redacted] b"`,
		`"hi\u0064den"`:                    `"[redacted]"`,
		`{"hidden":[4111,1.50,null,true]}`: `{"[redacted]":["[redacted]",1.50,null,true]}`,
		`{"a":{"a":"hid"},"b":"den"}`:      `{"a":{"a":"hid"},"b":"den"}`,
		`123456789012345678.5`:             `"123[redacted]890123[redacted]8.5"`,
		`100000000000000000000000.50`:      `100000000000000000000000.50`,
		``:                                 ``,
	} {
		got, err := (&redactor{of: r}).value(json.RawMessage(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	if out := r.result(execution.Result{Value: json.RawMessage(`{"a":`)}); out.Value != nil || out.ValueError != errWithheld {
		t.Errorf("%+v", out)
	}
}

// What takes too long is withheld, and nothing of it is left over.
func TestRedactIsBoundedInTime(t *testing.T) {
	s := &redactor{of: mustRedact(t, "secret"), spent: redactTime}
	if out := s.whole([]byte("some text"), false); len(out) > 0 || !s.failed || len(s.end(false)) > 0 || len(s.write([]byte("more"))) > 0 {
		t.Errorf("%q, %+v", out, s)
	}
	out := withheld(execution.Result{Stdout: []byte("x"), Stderr: []byte("y"), Value: json.RawMessage("1")})
	if out.Stdout != nil || out.Stderr != nil || out.Value != nil || out.ValueError == "" || !out.Truncated.Stdout {
		t.Errorf("%+v", out)
	}
}

// What a program writes between chunks decides nothing.
func FuzzRedact(f *testing.F) {
	f.Add("token=[^ ]{1,9}", "x token=abc y", uint8(3))
	f.Add("é.{0,3}", "\xc3\xa9\xff", uint8(1))
	f.Fuzz(func(t *testing.T, pattern, text string, most uint8) {
		r, err := newRedaction([]string{pattern})
		if err != nil || len(text) > 10_000 {
			return
		}
		want := string(r.pattern.ReplaceAllLiteral([]byte(text), []byte(redacted)))
		if got := stream(r, text, int(most)+1, false); got != want {
			t.Errorf("%q in %q: %q, want %q", pattern, text, got, want)
		}
		if value, err := (&redactor{of: r}).value(json.RawMessage(text)); err == nil && len(text) > 0 && json.Valid([]byte(text)) && !json.Valid(value) {
			t.Errorf("%q became %q", text, value)
		}
	})
}
