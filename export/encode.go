package export

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// encoder writes one record: JSON in one line, without a control character, or of syslog a
// message.
type encoder func(r *execution.Record) ([]byte, error)

// exported is a record as it leaves: with the id of its log, which together with its
// number is its identity everywhere.
type exported struct {
	Log string `json:"log"`
	*execution.Record
}

// newEncoder returns the encoder of what a sink is sent.
func newEncoder(s Sink, p producer) encoder {
	plain := func(r *execution.Record) ([]byte, error) { return encodeJSON(r.Seq, exported{p.log, r}) }
	switch {
	case s.Type == TypeSyslog:
		return func(r *execution.Record) ([]byte, error) {
			text, err := plain(r)
			return p.message(r, text), err
		}
	case s.format() == FormatOCSF:
		return func(r *execution.Record) ([]byte, error) { return encodeJSON(r.Seq, p.event(r)) }
	}
	return plain
}

func encodeJSON(seq uint64, value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode record %d: %w", seq, err)
	}
	return escapeRunes(text, func(r rune) bool { return r >= 0x7f && r <= 0x9f }), nil
}

// ascii writes JSON in ASCII alone.
func ascii(text []byte) []byte { return escapeRunes(text, func(r rune) bool { return r >= 0x7f }) }

// escapeRunes writes the characters of JSON that which names as \u escapes. encoding/json
// leaves as they are DEL and the C1 controls, on which a terminal may act.
func escapeRunes(text []byte, which func(rune) bool) []byte {
	clean := true
	for _, b := range text {
		if b >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r < 0x7f || !which(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = appendEscape(appendEscape(out, high), low)
		default:
			out = appendEscape(out, r)
		}
		text = text[n:]
	}
	return out
}

func appendEscape(out []byte, r rune) []byte {
	digits := strconv.FormatInt(int64(r)|0x10000, 16) // 1 and the four digits
	return append(append(out, '\\', 'u'), digits[1:]...)
}
