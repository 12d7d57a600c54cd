package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/execgate/execgate/execution"
)

// The bounds of the time that redacting one stream, or one result, may take: hostile
// patterns over hostile output take seconds for a MiB. It is looked at after each
// step.
const (
	redactTime = 5 * time.Second
	redactStep = 32 << 10 // bytes
)

// redactor redacts one stream that comes in pieces: all that write and end return,
// joined, is what the redaction makes of the whole stream, wherever it was cut. It
// holds back less than twice the longest match and a character. Once it has failed
// nothing more leaves it.
type redactor struct {
	of     *redaction
	held   []byte
	spent  time.Duration
	failed bool // it took too long
}

// write returns what of the stream cannot change any more.
func (r *redactor) write(piece []byte) (out []byte) {
	for len(piece) > 0 && !r.failed {
		n := min(len(piece), redactStep)
		began := time.Now()
		out = append(out, r.step(piece[:n])...)
		r.spend(time.Since(began))
		piece = piece[n:]
	}
	return out
}

func (r *redactor) spend(more time.Duration) {
	if r.spent += more; r.spent > redactTime {
		r.failed, r.held = true, nil
	}
}

func (r *redactor) step(piece []byte) []byte {
	r.held = append(r.held, piece...)
	// With half of it new at each look, no byte is looked at more than twice.
	reach := r.of.longest + utf8.UTFMax
	if len(r.held) < 2*reach {
		return nil
	}
	// What begins before sure has all that it can match in held.
	sure := boundary(r.held, len(r.held)-reach)
	out, next := r.of.replace(r.held, sure)
	r.held = bytes.Clone(r.held[next:])
	return out
}

// end returns the rest. Where the stream was cut off it is without what could be
// the beginning of a match.
func (r *redactor) end(cutOff bool) []byte {
	held := r.held
	r.held = nil
	keep := len(held)
	if cutOff {
		keep = max(0, boundary(held, keep-r.of.longest+1))
	}
	out, _ := r.of.replace(held, keep)
	return out
}

// replace redacts what begins in the first n bytes of text, and returns where it
// has got to, which is n or the end of a match that goes on past it.
func (r *redaction) replace(text []byte, n int) (out []byte, next int) {
	for next < n {
		found := r.pattern.FindIndex(text[next:])
		if found == nil || next+found[0] >= n {
			return append(out, text[next:n]...), n
		}
		out = append(append(out, text[next:next+found[0]]...), redacted...)
		next += found[1]
	}
	return out, next
}

// boundary is the last place up to n where no character of text is cut in two.
func boundary(text []byte, n int) int {
	for i := n - 1; i >= 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if r, size := utf8.DecodeRune(text[i:]); (r != utf8.RuneError || size > 1) && i+size > n {
				return i
			}
			break
		}
	}
	return n
}

// whole redacts a text, on the time of r.
func (r *redactor) whole(text []byte, cutOff bool) []byte {
	r.held = nil
	return append(r.write(text), r.end(cutOff)...)
}

// value redacts a JSON document.
func (r *redactor) value(document json.RawMessage) (json.RawMessage, error) {
	return rewriteJSON(document, func(text string) string { return string(r.whole([]byte(text), false)) })
}

// rewriteJSON puts what change makes of them in the place of the strings, the names
// and the numbers of a JSON document, each by itself. A number that is changed becomes
// a string.
func rewriteJSON(document json.RawMessage, change func(string) string) (json.RawMessage, error) {
	if len(document) == 0 {
		return document, nil
	}
	lenient := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
	from := jsontext.NewDecoder(bytes.NewReader(document), lenient...)
	var out bytes.Buffer
	to := jsontext.NewEncoder(&out, lenient...)
	for {
		token, err := from.ReadToken()
		if err == io.EOF {
			return bytes.TrimSpace(out.Bytes()), nil
		}
		if err != nil {
			return nil, err
		}
		switch kind := token.Kind(); {
		case kind == '"':
			err = to.WriteToken(jsontext.String(change(token.String())))
		case kind == '0':
			text := token.String()
			if changed := change(text); changed != text {
				err = to.WriteToken(jsontext.String(changed))
			} else {
				err = to.WriteValue(jsontext.Value(text))
			}
		default:
			err = to.WriteToken(token)
		}
		if err != nil {
			return nil, err
		}
	}
}

// errWithheld stands in the place of a result that could not be redacted.
const errWithheld = "the result is withheld: it could not be redacted"

// result redacts stdout, stderr and the result. What cannot be redacted is withheld.
func (r *redaction) result(in execution.Result) execution.Result {
	on := &redactor{of: r}
	in.Stdout, in.Stderr = on.whole(in.Stdout, in.Truncated.Stdout), on.whole(in.Stderr, in.Truncated.Stderr)
	value, err := on.value(in.Value)
	in.Value, in.ValueError = value, string(on.whole([]byte(in.ValueError), false))
	if err != nil {
		in.Value, in.ValueError = nil, errWithheld
	}
	if on.failed {
		return withheld(in)
	}
	return in
}

// withheld is in without its output.
func withheld(in execution.Result) execution.Result {
	in.Stdout, in.Stderr, in.Value, in.ValueError = nil, nil, nil, errWithheld
	in.Truncated = execution.Truncated{Stdout: true, Stderr: true}
	return in
}

// masker is one stream of output on its way out: all that write and end return, joined,
// is what is made of the whole stream, wherever it was cut.
type masker interface {
	write(piece []byte) []byte
	// end returns the rest. Where the stream was cut off it is without what could be
	// the beginning of what is masked.
	end(cutOff bool) []byte
}

// maskedEvents masks the output among events on its way to tell. What it holds back is
// told by rest.
type maskedEvents struct {
	tell func(execution.Event) error

	mu             sync.Mutex
	stdout, stderr masker
}

func (e *maskedEvents) add(event execution.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch event.Type {
	case execution.EventStdout:
		event.Data = e.stdout.write(event.Data)
	case execution.EventStderr:
		event.Data = e.stderr.write(event.Data)
	default:
		return e.tell(event)
	}
	if len(event.Data) == 0 {
		return nil
	}
	return e.tell(event)
}

// rest tells what was held back, once the program has ended.
func (e *maskedEvents) rest(cutOff execution.Truncated) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, left := range []execution.Event{
		{Type: execution.EventStdout, Data: e.stdout.end(cutOff.Stdout)},
		{Type: execution.EventStderr, Data: e.stderr.end(cutOff.Stderr)},
	} {
		if len(left.Data) > 0 {
			errs = append(errs, e.tell(left))
		}
	}
	return errors.Join(errs...)
}
