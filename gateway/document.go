package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/execgate/execgate/execution"
)

// The bounds of what a refusal says. Pointers hold names that the caller chose.
const (
	maxFieldErrors   = 32
	maxPointerLength = 256
)

// faults collects what is wrong with a document.
type faults struct {
	fields []execution.FieldError
	more   bool
}

func (f *faults) add(pointer, detail string) {
	if len(f.fields) == maxFieldErrors {
		f.more = true
		return
	}
	if len(pointer) > maxPointerLength {
		pointer = strings.ToValidUTF8(pointer[:maxPointerLength], "") + "…"
	}
	f.fields = append(f.fields, execution.FieldError{Pointer: pointer, Detail: detail})
}

func (f *faults) addf(pointer, format string, args ...any) {
	f.add(pointer, fmt.Sprintf(format, args...))
}

// err is nil where nothing is wrong.
func (f *faults) err() error {
	if len(f.fields) == 0 {
		return nil
	}
	detail := "some fields are not valid; see errors"
	if f.more {
		detail = "many fields are not valid; the first of them are in errors"
	}
	return &execution.Error{Kind: execution.KindInvalid, Detail: detail, Fields: f.fields}
}

// members are the values of a JSON object, by name. A member that is taken is
// removed, so what is left at the end is unknown.
type members map[string]jsontext.Value

// splitObject reads the one JSON object that document is, and nothing after it.
// The reader is that of JSON's version 2: a duplicate name, invalid UTF-8 and a
// lone surrogate are errors at any depth, and names match exactly.
func splitObject(document []byte, at string, f *faults) members {
	d := jsontext.NewDecoder(bytes.NewBuffer(document)) // of a Buffer it makes no copy
	if d.PeekKind() != '{' {
		if _, err := d.ReadValue(); err != nil {
			f.add(at+syntaxPointer(err), syntaxDetail(err))
		} else {
			f.add(at, "must be a JSON object")
		}
		return nil
	}
	found := members{}
	var err error
	for _, err = d.ReadToken(); err == nil && d.PeekKind() != '}'; {
		var name jsontext.Token
		if name, err = d.ReadToken(); err != nil {
			break
		}
		key := name.String() // before the next read, which reuses its memory
		var value jsontext.Value
		if value, err = d.ReadValue(); err != nil {
			break
		}
		found[key] = value.Clone()
	}
	if err == nil {
		_, err = d.ReadToken() // the closing brace
	}
	if err == nil {
		if _, err = d.ReadToken(); err == io.EOF {
			return found
		} else if err == nil {
			err = errTrailing
		}
	}
	f.add(at+syntaxPointer(err), syntaxDetail(err))
	return nil
}

var errTrailing = errors.New("trailing bytes")

func syntaxPointer(err error) string {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return string(e.JSONPointer)
	}
	return ""
}

// syntaxDetail says what is wrong without repeating any of the document.
func syntaxDetail(err error) string {
	e, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return "stands twice"
	case errors.Is(err, errTrailing):
		return "there is something after the document"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the document ends too early"
	case ok:
		return fmt.Sprintf("is not valid JSON in UTF-8, at byte %d", e.ByteOffset)
	default:
		return "is not valid JSON in UTF-8"
	}
}

// take reads the member called name into a T, if it is there. Null is not a way
// to leave a member out, nor is it a value of any type here.
func take[T any](m members, at, name string, f *faults) (value T, present bool) {
	raw, present := m[name]
	if !present {
		return value, false
	}
	delete(m, name)
	pointer := at + pointerTo(name)
	before := len(f.fields)
	findNulls(raw, pointer, f)
	if len(f.fields) > before {
		return value, true
	}
	if err := json.Unmarshal(raw, &value, json.RejectUnknownMembers(true)); err != nil {
		var zero T
		value = zero
		e, ok := errors.AsType[*json.SemanticError](err)
		switch {
		case !ok:
			f.add(pointer+syntaxPointer(err), syntaxDetail(err))
		case errors.Is(err, json.ErrUnknownName):
			f.add(pointer+string(e.JSONPointer), "is not a field of this API")
		default:
			f.addf(pointer+string(e.JSONPointer), "must be %s", typeName(e))
		}
	}
	return value, true
}

func typeName(e *json.SemanticError) string {
	if e.GoType == nil {
		return "of another type"
	}
	switch kind := e.GoType.Kind().String(); kind {
	case "string":
		return "a string"
	case "int64", "int":
		return "a whole number"
	case "slice":
		return "an array"
	case "map", "struct":
		return "an object"
	default:
		return "of another type"
	}
}

// rest reports the members that nobody took.
func (m members) rest(at string, f *faults) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		f.add(at+pointerTo(name), "is not a field of this API")
	}
}

// pointerTo is the last step of a JSON pointer (RFC 6901, section 3).
func pointerTo(name string) string {
	return "/" + strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// findNulls reports every null in a valid value. The bytes are searched first:
// hardly any request has one.
func findNulls(value jsontext.Value, at string, f *faults) {
	if !bytes.Contains(value, []byte("null")) {
		return
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	for {
		token, err := d.ReadToken()
		if err != nil {
			return // the end; the value is known to be valid
		}
		if token.Kind() == 'n' {
			f.add(at+string(d.StackPointer()), "must not be null; leave it out")
		}
	}
}

// depth is how deep the arrays and objects of a valid value are nested.
func depth(value jsontext.Value) int {
	deepest, now := 0, 0
	inString := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++ // what is escaped is not the end of the string
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			now++
			deepest = max(deepest, now)
		case c == ']' || c == '}':
			now--
		}
	}
	return deepest
}
