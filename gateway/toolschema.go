package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The bounds of schemas and of what is held against them.
const (
	maxSchemaBytes   = 64 << 10
	maxArgumentDepth = 32  // less than what policies read
	maxNumberLength  = 64  // bytes of a number as it is written
	maxExponent      = 400 // a float64 goes to 308, and down to -324
)

// schemaURL is the address of every schema: it is no place that anything is read from.
const schemaURL = "urn:execgate:arguments"

// schemaError is what is wrong with a schema, and where in it.
type schemaError struct{ pointer, detail string }

func (e *schemaError) Error() string { return e.detail }

// compileArguments compiles the JSON Schema of a tool's arguments. Nothing is fetched
// for it, whatever it refers to.
func compileArguments(text json.RawMessage) (schema *jsonschema.Schema, err error) {
	if len(text) == 0 {
		return nil, errors.New("is required: a JSON Schema of the arguments, such as {type: object, additionalProperties: false}")
	}
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("must have at most %d KiB", maxSchemaBytes>>10)
	}
	if f := checkValue(jsontext.Value(text), ""); len(f.fields) > 0 {
		return nil, &schemaError{f.fields[0].Pointer, f.fields[0].Detail}
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, errors.New("is not JSON")
	}
	root, ok := document.(map[string]any)
	if !ok || root["type"] != "object" {
		return nil, &schemaError{"/type", "must be object: arguments have names"}
	}
	if err := checkKeywords(document, ""); err != nil {
		return nil, err
	}
	defer func() { // a schema that no test of the library has thought of
		if p := recover(); p != nil {
			schema, err = nil, errors.New("is a schema that cannot be compiled")
		}
	}()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(nowhere{})
	if err := compiler.AddResource(schemaURL, document); err != nil {
		return nil, errors.New("is a schema that cannot be compiled")
	}
	schema, err = compiler.Compile(schemaURL)
	if err == nil {
		return schema, nil
	}
	if invalid, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if e, ok := errors.AsType[*jsonschema.ValidationError](invalid.Err); ok {
			for len(e.Causes) > 0 {
				e = e.Causes[0]
			}
			return nil, &schemaError{pointerOf(e.InstanceLocation), "is not what JSON Schema has there: " + detailOfKind(e.ErrorKind)}
		}
	}
	return nil, errors.New("is a schema that cannot be compiled: " + strings.ReplaceAll(err.Error(), schemaURL, ""))
}

// nowhere is what a schema can load from.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is outside of this schema, and nothing is fetched", url)
}

// checkKeywords refuses references that leave the schema, also where they are not
// reached, and what a caller could make costly.
func checkKeywords(value any, at string) error {
	switch v := value.(type) {
	case []any:
		for i, element := range v {
			if err := checkKeywords(element, at+"/"+strconv.Itoa(i)); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			inner, pointer := v[key], at+pointerTo(key)
			switch text, isText := inner.(string); {
			case isText && (key == "$ref" || key == "$dynamicRef" || key == "$recursiveRef") && !strings.HasPrefix(text, "#"):
				return &schemaError{pointer, "must begin with #: a reference cannot leave the schema"}
			case key == "uniqueItems" && inner == true:
				return &schemaError{pointer, "is not taken, because a caller could make it cost the square of an array: check it in the tool"}
			}
			if err := checkKeywords(inner, pointer); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkValue reports what no schema, no policy and no tool should have to read: NUL,
// at which half of all programs would stop; numbers that nothing holds, which would
// take gigabytes to hold exactly; and nesting without end. The value is known to be
// JSON, or else its first fault is reported.
func checkValue(value jsontext.Value, at string) *faults {
	f := &faults{}
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	for {
		token, err := d.ReadToken()
		if err != nil {
			if err != io.EOF {
				f.add(at+syntaxPointer(err), syntaxDetail(err))
			}
			return f
		}
		if f.more {
			return f
		}
		switch token.Kind() {
		case '"':
			if strings.ContainsRune(token.String(), 0) {
				f.add(at+string(d.StackPointer()), "must not contain NUL")
			}
		case '0':
			if wrong := checkNumber(token.String()); wrong != "" {
				f.add(at+string(d.StackPointer()), wrong)
			}
		case '{', '[':
			if d.StackDepth() > maxArgumentDepth {
				f.addf(at, "must not be nested deeper than %d", maxArgumentDepth)
				return f
			}
		}
	}
}

// checkNumber takes a number as it is written in JSON.
func checkNumber(text string) string {
	if len(text) > maxNumberLength {
		return fmt.Sprintf("must be a number of at most %d characters", maxNumberLength)
	}
	if at := strings.IndexAny(text, "eE"); at >= 0 {
		exponent, err := strconv.Atoi(text[at+1:])
		if err != nil || exponent > maxExponent || exponent < -maxExponent {
			return "must be a number that a 64-bit float can hold"
		}
	}
	if n, err := strconv.ParseFloat(text, 64); err != nil || math.IsInf(n, 0) {
		return "must be a number that a 64-bit float can hold"
	}
	return ""
}
