package scrub

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// Wherever the border between two writes is, and the one to a third, the
// output is the same.
func TestEveryBorder(t *testing.T) {
	for name, values := range specimens {
		set := newSet(t, values...)
		for i, encode := range encoders {
			text := "ab" + encode(values[0]) + encode(values[len(values)-1])[1:] + "yz"
			want := set.Text(text)
			for first := range len(text) {
				second := first + (len(text)-first)/2
				var out bytes.Buffer
				w := NewWriter(&out, set)
				for _, part := range []string{text[:first], text[first:second], text[second:]} {
					io.WriteString(w, part)
				}
				if err := w.Close(); err != nil || out.String() != want {
					t.Fatalf("%s, encoder %d, %q | %q | %q: %q, want %q, %v", name, i, text[:first], text[first:second], text[second:], out.String(), want, err)
				}
			}
		}
	}
}

// Only what may become a secret is held back, and only as long as it may.
func TestHeldBack(t *testing.T) {
	var out strings.Builder
	w := NewWriter(&out, newSet(t, "hvs.secret-one", "hvs.secret-two"))
	for _, test := range []struct {
		write, out string
		held       int
	}{
		{"Password: ", "Password: ", 0}, // a prompt shows at once
		{"the token is hv", "the token is ", len("hv")},
		{"s.secret-", "", len("hvs.secret-")},
		{"xhvs.secret-t", "hvs.secret-x", len("hvs.secret-t")},
		{"w", "", len("hvs.secret-tw")},
		{"o", Marker, 1}, // with this "o" the base64 of another one may begin; then there is one marker for both
		{"hvs.secret-one h", " ", len("h")},
		{"vs.secret-on", "", len("hvs.secret-on")},
		{"E\n", "hvs.secret-onE\n", 0},
	} {
		out.Reset()
		if _, err := io.WriteString(w, test.write); err != nil {
			t.Fatal(err)
		}
		if out.String() != test.out || w.Held() != test.held {
			t.Errorf("after %q: wrote %q and holds %d, want %q and %d", test.write, out.String(), w.Held(), test.out, test.held)
		}
	}
}

// A secret that comes byte by byte in its longest form is held back, and no more
// than that.
func TestHeldBackAtMost(t *testing.T) {
	for name, values := range specimens {
		set := newSet(t, values...)
		for _, encode := range encoders {
			text := strings.Repeat(encode(values[0]), 3)
			inChunks(t, set, text, []byte{0}) // has the bound
		}
		if longest := len(values[0]) * 6; set.m.longest < longest {
			t.Errorf("%s: the longest form has %d bytes, but each byte may take six", name, set.m.longest)
		}
	}
}

// After a pause the beginning of a word must show, though a secret begins so. What
// follows of the secret is still masked.
func TestFlush(t *testing.T) {
	for _, test := range []struct{ first, second, want string }{
		{"Continue? [y/n] h", "elp\n", "Continue? [y/n] h|elp\n"},
		{"hv", "s.secret-one.", "hv|[redacted]."},
		{"hvs.secret-one hvs", ".secret-one", "[redacted] hvs|[redacted]"},
		{"hvs.secret-onehvs", ".secret-one", "[redacted]hvs|[redacted]"},
		{"no secret", " at all", "no secret| at all"},
	} {
		var out strings.Builder
		set := newSet(t, "hvs.secret-one")
		w := NewWriter(&out, set)
		io.WriteString(w, test.first)
		if err := w.Flush(); err != nil || w.Held() != 0 {
			t.Fatal(err, w.Held())
		}
		out.WriteString("|")
		if err := w.Use(set); err != nil { // forgets nothing
			t.Fatal(err)
		}
		io.WriteString(w, test.second)
		if err := w.Close(); err != nil || out.String() != test.want {
			t.Errorf("%q, flushed, %q: %q, want %q", test.first, test.second, out.String(), test.want)
		}
	}
}

// A secret that is fetched while the stream runs is known from then on, and in
// what is held back.
func TestUse(t *testing.T) {
	one := newSet(t, "aaaa-first-secret")
	two, err := one.With("first-secret-aaaa", "aaaa-fir")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		before, after string
		sets          [2]*Set
		want          string
	}{
		"from nothing":                        {"first-secret-aaaa ", "first-secret-aaaa", [2]*Set{nil, two}, "first-secret-aaaa [redacted]"},
		"a part of what is held back":         {"aaaa-first", "...", [2]*Set{one, two}, "[redacted]st..."},
		"begun before":                        {"aaaa-first-sec", "ret", [2]*Set{one, two}, "[redacted]"},
		"its beginning has gone out":          {"xfirst-sec", "ret-aaaa", [2]*Set{one, two}, "xfirst-secret-aaaa"},
		"its beginning is held back":          {"aaaa-first-secre", "x first-secret-aaaa", [2]*Set{one, two}, "[redacted]st-secrex [redacted]"},
		"masked before, another one overlaps": {"aaaa-first-secretaaaa-fi", "r", [2]*Set{one, two}, "[redacted]"},
		"to nothing":                          {"aaaa-first-secretaaaa-first", "-secret", [2]*Set{one, nil}, "[redacted]aaaa-first-secret"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			w := NewWriter(&out, test.sets[0])
			io.WriteString(w, test.before)
			if err := w.Use(test.sets[1]); err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, test.after)
			if err := w.Close(); err != nil || out.String() != test.want {
				t.Errorf("%q, %q: %q, want %q", test.before, test.after, out.String(), test.want)
			}
		})
	}
	var out strings.Builder
	w := NewWriter(&out, one)
	io.WriteString(w, "aaaa-first")
	if err := w.Use(newSet(t, "another one")); err != nil || out.String() != "aaaa-first" {
		t.Errorf("what the new Set does not need is still held back: %q, %v", out.String(), err)
	}
}

// limited takes so many bytes and fails then.
type limited struct{ left int }

var errFull = errors.New("full")

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		n := l.left
		l.left = 0
		return n, errFull
	}
	l.left -= len(p)
	return len(p), nil
}

type stingy struct{}

func (stingy) Write(p []byte) (int, error) { return len(p) - 1, nil }

// After an error nothing is written, and each call returns it.
func TestWriterBelowFails(t *testing.T) {
	w := NewWriter(&limited{10}, newSet(t, "hvs.secret-one"))
	if n, err := w.Write([]byte("ten bytes.")); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := w.Write([]byte("another ten hvs")); n != 0 || !errors.Is(err, errFull) {
		t.Errorf("%d bytes, %v", n, err)
	}
	for name, err := range map[string]error{"Flush": w.Flush(), "Use": w.Use(nil), "Close": w.Close()} {
		if !errors.Is(err, errFull) {
			t.Errorf("%s answers %v", name, err)
		}
	}
	if _, err := NewWriter(stingy{}, nil).Write([]byte("text")); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a short write is answered by %v", err)
	}
}

// Close writes what is left and is the end.
func TestClose(t *testing.T) {
	var out strings.Builder
	w := NewWriter(&out, newSet(t, "hvs.secret-one"))
	io.WriteString(w, "hvs.secret")
	if err := w.Close(); err != nil || out.String() != "hvs.secret" || w.Held() != 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, err := w.Write([]byte("more")); err == nil || out.String() != "hvs.secret" {
		t.Errorf("a closed Writer wrote: %q, %v", out.String(), err)
	}
}

// A Writer does not change or keep what is written to it.
func TestWriterKeepsOff(t *testing.T) {
	var out strings.Builder
	w := NewWriter(&out, newSet(t, "hvs.secret-one"))
	p := []byte("text hvs.secret")
	w.Write(p)
	if string(p) != "text hvs.secret" {
		t.Errorf("it was changed to %q", p)
	}
	copy(p, "xxxxxxxxxxxxxxx")
	io.WriteString(w, "-one")
	if err := w.Close(); err != nil || out.String() != "text "+Marker {
		t.Errorf("%q, %v", out.String(), err)
	}
}
