package scrub

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
)

// What would mask innocent text, or cannot be sought, is refused. The error says
// which value it was and not what it is.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct{ value, because string }{
		"empty":                        {"", "less than 8 bytes"},
		"under the floor":              {"S3cret!", "less than 8 bytes"},
		"white space does not count":   {" S3cret!\n\n\n", "less than 8 bytes"},
		"only white space":             {strings.Repeat(" ", 20), "less than 8 bytes"},
		"too long":                     {strings.Repeat("0123456789abcdef", 1025), "more than 16384 bytes"},
		"the marker":                   {"[redacted]", "part of [redacted]"},
		"in the marker":                {"redacted", "part of [redacted]"},
		"in the marker, a line of it":  {"redacted]\n", "part of [redacted]"},
		"a ruler":                      {strings.Repeat("-", 40), "repeats"},
		"a pair, over and over":        {strings.Repeat("0,", 40), "repeats"},
		"a ruler on a line of its own": {"\n" + strings.Repeat("-", 40) + "\n", "repeats"},
		"begins with a ruler":          {strings.Repeat("=", 40) + " S3cret!", "repeats"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := NewSet("innocent value", test.value)
			if set != nil || err == nil {
				t.Fatalf("%q is accepted", test.value)
			}
			if !strings.Contains(err.Error(), test.because) || !strings.Contains(err.Error(), "value 2 of 2") {
				t.Errorf("the error is %q", err)
			}
			if strings.Contains(err.Error(), "S3cret!") {
				t.Errorf("the error tells the secret: %q", err)
			}
		})
	}
	var many []string
	for i := range 5 {
		many = append(many, strings.Repeat(fmt.Sprint("value", i), 2)+strings.Repeat("0123456789abcde", 1000))
	}
	if _, err := NewSet(many...); err == nil || !strings.Contains(err.Error(), "65536 bytes together") {
		t.Errorf("many long values: %v", err)
	}
}

// The floor is eight bytes: that many are masked, in each form.
func TestFloor(t *testing.T) {
	set := newSet(t, "8 bytes!")
	for _, text := range []string{"8 bytes!", "OCBieXRlcy", "3820627974657321", "8%20bytes!", "8+bytes%21", `8\u0020bytes!`} {
		if got := set.Text(text); got != Marker {
			t.Errorf("%q became %q", text, got)
		}
	}
	// Forms that fall under the floor are not used: seven bytes without "\r", and seven
	// without what is no UTF-8.
	for value, text := range map[string]string{"abc\r\ndef": "abc\ndef", "abc\xff\xffdefg": "abc\ufffd\ufffddefg"} {
		if got := newSet(t, value).Text(text + " " + value); got != text+" "+Marker {
			t.Errorf("%q became %q", text+" "+value, got)
		}
	}
}

// No Set, the zero Set, and one that was made of nothing change nothing.
func TestNothingToMask(t *testing.T) {
	empty := newSet(t)
	for name, set := range map[string]*Set{"nil": nil, "zero": {}, "made of nothing": empty} {
		if got := set.Text("hvs.CAESIJzZ0nYxk3vQ7mPw"); got != "hvs.CAESIJzZ0nYxk3vQ7mPw" {
			t.Errorf("%s: %q", name, got)
		}
		var out strings.Builder
		w := NewWriter(&out, set)
		fmt.Fprint(w, "text")
		if w.Held() != 0 || out.String() != "text" {
			t.Errorf("%s: a writer holds %d bytes back and has written %q", name, w.Held(), out.String())
		}
		more, err := set.With("a secret")
		if err != nil || more.Text("a secret") != Marker {
			t.Errorf("%s cannot be added to: %v", name, err)
		}
	}
}

// With makes another Set, and leaves the one before alone.
func TestWith(t *testing.T) {
	one := newSet(t, "first secret")
	two, err := one.With("second secret", "first secret")
	if err != nil {
		t.Fatal(err)
	}
	const text = "first secret, second secret"
	if got := one.Text(text); got != Marker+", second secret" {
		t.Errorf("the first Set has changed: %q", got)
	}
	if got := two.Text(text); got != Marker+", "+Marker {
		t.Errorf("the second Set: %q", got)
	}
	if _, err := two.With("short"); err == nil {
		t.Error("a short value is accepted")
	}
}

// A value without a secret is the same one afterwards, and one with a secret is not
// written to.
func TestBytes(t *testing.T) {
	set := newSet(t, "a secret")
	clean := []byte("nothing here")
	if got := set.Bytes(clean); &got[0] != &clean[0] || len(got) != len(clean) {
		t.Error("a clean value was copied")
	}
	dirty := []byte("here is a secret.")
	if got := set.Bytes(dirty); string(got) != "here is [redacted]." || string(dirty) != "here is a secret." {
		t.Errorf("%q became %q", dirty, got)
	}
	if got := set.Bytes(nil); got != nil {
		t.Errorf("nil became %q", got)
	}
}

// Everything that any secret covers is masked. What overlaps or touches has one
// marker.
func TestOverlaps(t *testing.T) {
	for name, test := range map[string]struct {
		values     string
		text, want string
	}{
		"one inside another":                   {"abcdefghijkl cdefghij", "<abcdefghijkl>", "<[redacted]>"},
		"only the inner one":                   {"abcdefghijkl cdefghij", "<xbcdefghijkl>", "<xb[redacted]kl>"},
		"one begins another":                   {"abcdefgh abcdefghijkl", "<abcdefghijkl> <abcdefghijk>", "<[redacted]> <[redacted]ijk>"},
		"one ends another":                     {"efghijkl abcdefghijkl", "<abcdefghijkl> <xbcdefghijkl>", "<[redacted]> <xbcd[redacted]>"},
		"the end of one begins another":        {"abcdefgh efghijkl", "<abcdefghijkl>", "<[redacted]>"},
		"side by side":                         {"abcdefgh ijklmnop", "<abcdefghijklmnop> <abcdefgh ijklmnop>", "<[redacted]> <[redacted] [redacted]>"},
		"one that overlaps itself":             {"abababab", "<ababababab> <abababab,abababab>", "<[redacted]> <[redacted],[redacted]>"},
		"a longer one that is missed":          {"abcdefghijkl fghijkmn", "<abcdefghijkmn>", "<abcde[redacted]>"},
		"one is escaped where the other has %": {"x%abc%defgh x%abcAdefgh", "<x%abc%defgh> <x%abc%41defgh>", "<[redacted]> <[redacted]>"},
		"in two encodings":                     {"abcdefgh", "abcdefghYWJjZGVmZ2g=6162636465666768", "[redacted]g=[redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(t, strings.Fields(test.values)...)
			if got := set.Text(test.text); got != test.want {
				t.Errorf("%q became %q, want %q", test.text, got, test.want)
			}
			if got := inChunks(t, set, test.text, []byte{0}); got != test.want {
				t.Errorf("%q, byte by byte, became %q, want %q", test.text, got, test.want)
			}
		})
	}
}

// What was scrubbed is not changed by scrubbing it again, unless a secret has
// a bracket in it that may be one of the marker's.
func TestIdempotent(t *testing.T) {
	for name, values := range specimens {
		set := newSet(t, values...)
		var text strings.Builder
		for i := range 200 {
			encoded := encoders[i%len(encoders)](values[i%len(values)])
			text.WriteString(encoded[i%3:])
			text.WriteString(encoded[:len(encoded)-i%5])
		}
		once := set.Text(text.String())
		if again := set.Text(once); again != once {
			t.Errorf("%s: %q became %q", name, once, again)
		}
	}
}

// A text made for the purpose takes no more than a fixed number of steps for each byte,
// however long it is and however it is cut.
func TestWorstCaseIsLinear(t *testing.T) {
	const textBytes = 1 << 15
	secrets := secretsFor(100)
	noUTF8, random := "", rand.New(rand.NewPCG(5, 6))
	for range 400 {
		noUTF8 += string([]byte{0xf8 + byte(random.IntN(8))})
	}
	for name, test := range map[string]struct {
		values []string
		text   []byte
		most   int // steps a byte
	}{
		"all but a secret, in all encodings": {secrets, corpora(secrets)["near"][:textBytes], 8},
		"all but a repetitive secret":        {[]string{strings.Repeat("a", maxRepeats)}, []byte(strings.Repeat(strings.Repeat("a", maxRepeats-1)+"b", textBytes/maxRepeats)), 3 * maxRepeats},
		"a repetitive secret, on and on":     {[]string{strings.Repeat("a", maxRepeats)}, []byte(strings.Repeat("a", textBytes)), 3 * maxRepeats},
		"escapes on and on":                  {[]string{`%%%%%%%%\\\\\\\\`}, []byte(strings.Repeat(`%25%%\\\u005c`, textBytes/13)), 40},
		"U+FFFD on and on":                   {[]string{noUTF8 + "8 bytes!"}, []byte(strings.Repeat("\ufffd", textBytes/3)), 10},
		"backslashes on and on":              {[]string{`\\\\\\\\\\\\\\\\x`}, []byte(strings.Repeat(`\`, textBytes)), 200},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(t, test.values...)
			steps := func(text []byte) int {
				st := stream{m: set.m}
				st.scan(text, 0)
				return st.steps
			}
			whole, part := steps(test.text), steps(test.text[:len(test.text)/8])
			t.Logf("%.1f steps a byte", float64(whole)/float64(len(test.text)))
			if whole > test.most*len(test.text) {
				t.Errorf("%d bytes take %d steps", len(test.text), whole)
			}
			if whole > 9*part+1000 {
				t.Errorf("%d steps for the whole text and %d for an eighth of it", whole, part)
			}
			var bytewise strings.Builder
			w := NewWriter(&bytewise, set)
			for i := range test.text[:len(test.text)/8] {
				w.Write(test.text[i : i+1])
			}
			if w.stream.steps > 4*part+1000 {
				t.Errorf("byte by byte it takes %d steps instead of %d", w.stream.steps, part)
			}
		})
	}
}

// A Set and a Writer tell nobody what they hold, by whatever means one asks.
func TestNothingPrints(t *testing.T) {
	const value = "S3cret-Value"
	set := newSet(t, value)
	w := NewWriter(new(strings.Builder), set)
	fmt.Fprint(w, value[:8])
	if w.Held() != 8 {
		t.Fatalf("%d bytes are held back", w.Held())
	}
	var seen strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		fmt.Fprintf(&seen, verb+verb+verb+verb, set, *set, w, struct{ Set Set }{*set})
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&seen, nil), slog.NewJSONHandler(&seen, nil)} {
		slog.New(handler).Info("message", "set", set, "value", *set, "writer", w)
	}
	if strings.Contains(seen.String(), "S3cret") || strings.Contains(seen.String(), fmt.Sprintf("%x", "S3cret")) || strings.Contains(seen.String(), "83 51 99") {
		t.Errorf("a secret shows: %s", seen.String())
	}
	for name, v := range map[string]any{"set": set, "value": *set, "writer": w, "field": struct{ Set *Set }{set}} {
		if text, err := json.Marshal(v); err == nil {
			t.Errorf("%s was marshalled: %s", name, text)
		}
	}
	if _, err := set.MarshalBinary(); err == nil {
		t.Error("a Set was marshalled")
	}
	if fmt.Sprint((*Set)(nil)) != "<nil>" {
		t.Error("a nil Set does not print as such")
	}
}
