package gateway

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJoinerHoldsBackHalfACharacter(t *testing.T) {
	var j joiner
	var got []string
	for _, piece := range []string{"caf\xc3", "\xa9 \xf0\x9f", "\x98", "\x80\xff\xff", "\xfe!", "\xe2\x82"} {
		got = append(got, j.add([]byte(piece)))
	}
	got = append(got, j.rest())
	if want := "caf|é ||😀\uFFFD|!||\uFFFD"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", strings.Join(got, "|"), want)
	}
}

// In whatever pieces bytes come, their text is that of the whole.
func FuzzJoiner(f *testing.F) {
	f.Add([]byte("caf\xc3\xa9 \xf0\x9f\x98\x80\xff\xfe"), []byte{1, 2, 3})
	f.Add([]byte("\xe2\x82\xff\xe2\x82\xac\xc3"), []byte{1})
	f.Add([]byte("\xed\xa0\x80\xf4\x90\x80\x80\x00"), []byte{2, 1})
	f.Fuzz(func(t *testing.T, whole, cuts []byte) {
		var j joiner
		var out strings.Builder
		left := whole
		for i := 0; len(left) > 0; i++ {
			n := len(left)
			if len(cuts) > 0 {
				n = min(n, int(cuts[i%len(cuts)])+1)
			}
			piece := bytes.Clone(left[:n])
			told := j.add(piece)
			clear(piece) // what was given may be used again
			if !utf8.ValidString(told) || len(j.held) > 3 {
				t.Fatalf("told %q, held %q", told, j.held)
			}
			out.WriteString(told)
			left = left[n:]
		}
		out.WriteString(j.rest())
		if out.String() != text(whole) {
			t.Errorf("%q, want %q", out.String(), text(whole))
		}
	})
}
