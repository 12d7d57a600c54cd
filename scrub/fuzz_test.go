package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// encoders are what a fuzzed program writes secrets with.
var encoders = []func(string) string{
	func(s string) string { return s },
	func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	func(s string) string { return base64.URLEncoding.EncodeToString([]byte("x" + s + "y")) },
	func(s string) string { return base64.StdEncoding.EncodeToString([]byte("xy" + s)) },
	func(s string) string { return wrapped(base64.StdEncoding.EncodeToString([]byte("z"+s)), 5, "\r\n") },
	func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
	func(s string) string { return fmt.Sprintf("%x", s) },
	func(s string) string { return fmt.Sprintf("%X", s) },
	url.QueryEscape,
	url.PathEscape,
	func(s string) string { return percent(s, "%%%02x", "") },
	func(s string) string { text, _ := json.Marshal(s); return string(text) },
	func(s string) string { return asciiJSON(s) },
	strconv.Quote,
	strconv.QuoteToASCII,
	func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
}

// FuzzScrub holds the scrubber against the obvious one. A program of bytes makes
// the text: pairs of an operation and its argument. Chunks say how long each
// write is, and where the Set is handed over anew.
func FuzzScrub(f *testing.F) {
	all := make([]byte, 0, 2*len(encoders))
	for i := range encoders {
		all = append(all, byte(0x80+i), 0)
	}
	for _, values := range specimens {
		f.Add(strings.Join(values, "\xff"), all, []byte{1, 7, 200}, byte(0))
	}
	f.Add("abababab\xffabababababab", []byte{0x80, 0, 0x80, 1, 0x90, 1, 0x80, 0}, []byte{3}, byte(1))
	f.Add(`%%\\%25\\n`, all, []byte{1}, byte(2))
	f.Fuzz(func(t *testing.T, joined string, program, chunks []byte, alphabet byte) {
		if len(joined) > 200 || len(program) > 200 {
			return // the obvious scrubber is slow
		}
		var values []string
		for value := range strings.SplitSeq(joined, "\xff") {
			value = inAlphabet(value, alphabet)
			if _, err := NewSet(value); err == nil && len(values) < 5 {
				values = append(values, value)
			}
		}
		set, err := NewSet(values...)
		if err != nil {
			t.Fatal(err)
		}
		text := play(values, program)
		want := obvious(values, text)
		if got := set.Text(text); got != want {
			t.Fatalf("values %q\ntext %q\ngot  %q\nwant %q", values, text, got, want)
		}
		if got := inChunks(t, set, text, chunks); got != want {
			t.Fatalf("values %q\nchunks %d of\ntext %q\ngot  %q\nwant %q", values, chunks, text, got, want)
		}
		if again := set.Text(want); !strings.ContainsAny(strings.Join(values, ""), "[]") && again != want {
			t.Fatalf("values %q\nscrubbed %q\nagain    %q", values, want, again)
		}
	})
}

// inAlphabet makes values that are like themselves and each other.
func inAlphabet(value string, which byte) string {
	alphabets := []string{"", "ab", `%25\u` + "\r\n", "a%2+/ \t"}
	alphabet := alphabets[int(which)%len(alphabets)]
	if alphabet == "" {
		return value
	}
	b := []byte(value)
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return string(b)
}

// play writes the text of a program.
func play(values []string, program []byte) string {
	var b strings.Builder
	for i := 0; i+1 < len(program) && b.Len() < 600; i += 2 {
		op, argument := program[i], int(program[i+1])
		if op < 0x80 || len(values) == 0 {
			b.Write(program[i : i+2])
			continue
		}
		text := encoders[int(op)%16%len(encoders)](values[argument%len(values)])
		switch op >> 4 {
		case 0x8, 0xc: // all of it
		case 0x9, 0xd:
			text = text[:argument%(len(text)+1)]
		case 0xa, 0xe:
			text = text[argument%(len(text)+1):]
		default:
			text = text[:len(text)/2] + string(program[i:i+2]) + text[len(text)/2:]
		}
		b.WriteString(text)
	}
	return b.String()
}

// inChunks writes text to a Writer in chunks of the lengths given, over and over.
// After one of odd length the Set is handed over once more.
func inChunks(t *testing.T, set *Set, text string, lengths []byte) string {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, set)
	for i := 0; text != ""; i++ {
		length := len(text)
		if len(lengths) > 0 {
			length = min(length, 1+int(lengths[i%len(lengths)]))
		}
		if n, err := w.Write([]byte(text[:length])); n != length || err != nil {
			t.Fatal(n, err)
		}
		text = text[length:]
		if set.matcher() == nil && w.Held() > 0 || set.matcher() != nil && w.Held() >= set.m.longest {
			t.Fatalf("%d bytes are held back", w.Held())
		}
		if length%2 == 1 {
			if err := w.Use(set); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
