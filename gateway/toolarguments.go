package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/execgate/execgate/execution"
)

// fits holds arguments, which decodeToolCall has read, against the tool's schema. The
// error is of KindInvalid, with pointers into the body of the request.
func (t *tool) fits(arguments json.RawMessage) (err error) {
	defer func() { // what a schema makes of arguments must not end the gateway
		if p := recover(); p != nil {
			err = internal("validate arguments", fmt.Errorf("panic: %v", p))
		}
	}()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(arguments))
	if err != nil {
		return internal("read arguments", err)
	}
	err = t.schema.Validate(value)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return internal("validate arguments", err)
	}
	f := &faults{}
	addFaults(invalid, f)
	slices.SortFunc(f.fields, func(a, b execution.FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	return f.err()
}

// addFaults reports the innermost causes of e: those say what to mend. Of alternatives,
// of which one has to fit, it says only that none does.
func addFaults(e *jsonschema.ValidationError, f *faults) {
	if f.more {
		return
	}
	at := "/arguments" + pointerOf(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			f.add(at+pointerTo(name), "is required")
		}
		return
	case *kind.DependentRequired:
		for _, name := range k.Missing {
			f.addf(at+pointerTo(name), "is required with %s", k.Prop)
		}
		return
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			f.add(at+pointerTo(name), "is not an argument of this tool")
		}
		return
	case *kind.AnyOf, *kind.OneOf, *kind.Not, *kind.Contains, *kind.MinContains, *kind.MaxContains, *kind.PropertyNames:
		f.add(at, detailOfKind(k))
		return
	}
	if len(e.Causes) == 0 {
		f.add(at, detailOfKind(e.ErrorKind))
		return
	}
	for _, cause := range e.Causes {
		addFaults(cause, f)
	}
}

// maxListed bounds what a message lists of a schema.
const maxListed = 16

// detailOfKind says what is wrong by the schema's own words, and never repeats a value
// of the caller's: it goes to the log too.
func detailOfKind(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be of the type " + strings.Join(k.Want, " or ")
	case *kind.Enum:
		return "must be one of " + listed(k.Want)
	case *kind.Const:
		return "must be " + listed([]any{k.Want})
	case *kind.Format:
		return "must have the format " + k.Want
	case *kind.Pattern:
		return fmt.Sprintf("must match %.256s", k.Want)
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items", k.Want)
	case *kind.AdditionalItems:
		return fmt.Sprintf("has %d items too many", k.Count)
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %d members", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %d members", k.Want)
	case *kind.Minimum:
		return "must be at least " + k.Want.RatString()
	case *kind.Maximum:
		return "must be at most " + k.Want.RatString()
	case *kind.ExclusiveMinimum:
		return "must be more than " + k.Want.RatString()
	case *kind.ExclusiveMaximum:
		return "must be less than " + k.Want.RatString()
	case *kind.MultipleOf:
		return "must be a multiple of " + k.Want.RatString()
	case *kind.FalseSchema:
		return "must not be there"
	case *kind.AnyOf:
		return "fits none of the forms that the tool takes"
	case *kind.OneOf:
		return "must fit exactly one of the forms that the tool takes"
	case *kind.Not:
		return "has the form that the tool does not take"
	case *kind.Contains, *kind.MinContains, *kind.MaxContains:
		return "does not hold as many items of the form that the tool wants"
	case *kind.PropertyNames:
		return "has a member whose name the tool does not take"
	default:
		return "does not fit the schema"
	}
}

// listed are values of a schema, as JSON.
func listed(values []any) string {
	var texts []string
	for _, value := range values[:min(len(values), maxListed)] {
		text, err := json.Marshal(value)
		if err != nil {
			continue
		}
		texts = append(texts, string(text[:min(len(text), maxPointerLength)]))
	}
	if len(values) > maxListed {
		texts = append(texts, "…")
	}
	return strings.ToValidUTF8(strings.Join(texts, ", "), "")
}

// pointerOf is the JSON pointer of a location.
func pointerOf(location []string) string {
	var pointer strings.Builder
	for _, step := range location {
		pointer.WriteString(pointerTo(step))
	}
	return pointer.String()
}

// maxToolCallBytes bounds the body of a call: policy reads all of it.
const maxToolCallBytes = 256 << 10

// decodeToolCall reads the body of POST /v1/tools/{name}/calls. What it returns is an
// object without white space between its tokens, which says one thing only; whether it
// fits the tool is not looked at. Errors are those of decodeRequest.
func decodeToolCall(body []byte) (arguments json.RawMessage, metadata map[string]string, err error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return nil, nil, f.err()
	}
	raw, present := m["arguments"]
	delete(m, "arguments")
	switch {
	case !present:
		f.add("/arguments", "is required; it may be {}")
	case raw.Kind() != '{':
		f.add("/arguments", "must be an object")
	default:
		for _, fault := range checkValue(raw, "/arguments").fields {
			f.add(fault.Pointer, fault.Detail)
		}
	}
	metadata, _ = take[map[string]string](m, "", "metadata", f)
	checkMetadata(metadata, f)
	m.rest("", f)
	if err := f.err(); err != nil {
		return nil, nil, err
	}
	if err := raw.Compact(); err != nil {
		return nil, nil, internal("compact arguments", err)
	}
	return json.RawMessage(raw), metadata, nil
}
