package gateway

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// A schema that refers to itself ends.
func TestSchemasThatAreRecursive(t *testing.T) {
	for name, test := range map[string]struct {
		schema, arguments string
		fits              bool
	}{
		"to itself":  {`{"type":"object","$ref":"#"}`, `{}`, false},
		"in a ring":  {`{"type":"object","$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `{}`, false},
		"downwards":  {`{"type":"object","properties":{"x":{"$ref":"#"}},"additionalProperties":false}`, `{"x":{"x":{"x":{}}}}`, true},
		"and wrong":  {`{"type":"object","properties":{"x":{"$ref":"#"}},"additionalProperties":false}`, `{"x":{"x":{"y":{}}}}`, false},
		"by draft 7": {`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"x":{"$ref":"#/definitions/x"}},"definitions":{"x":{"type":"string"}}}`, `{"x":"a"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			schema, err := compileArguments(json.RawMessage(test.schema))
			if err != nil {
				if test.fits {
					t.Error(err)
				}
				return
			}
			if err := (&tool{schema: schema}).fits(json.RawMessage(test.arguments)); (err == nil) != test.fits {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What does not fit is said by pointers into the body, in the schema's words.
func TestArgumentsThatDoNotFit(t *testing.T) {
	const schema = `{"type":"object","additionalProperties":false,"required":["name"],"properties":{
		"name":{"type":"string","minLength":2,"maxLength":5,"pattern":"^[a-z]+$"},"n":{"type":"integer","minimum":1,"maximum":9},
		"kind":{"enum":["a","b"]},"list":{"type":"array","maxItems":2,"items":{"type":"string"}},"when":{"type":"string","format":"date"},
		"either":{"anyOf":[{"type":"string"},{"type":"null"}]},"a/b~c":{"type":"boolean"}}}`
	compiled, err := compileArguments(json.RawMessage(schema))
	if err != nil {
		t.Fatal(err)
	}
	tool := &tool{schema: compiled}
	for arguments, want := range map[string][]execution.FieldError{
		`{"name":"abc","n":9,"kind":"b","list":[],"when":"2026-01-31","either":null}`: nil,
		`{"name":"abc","n":9.0}`:                   nil,
		`{}`:                                       {{Pointer: "/arguments/name", Detail: "is required"}},
		`{"name":1}`:                               {{Pointer: "/arguments/name", Detail: "must be of the type string"}},
		`{"name":"a"}`:                             {{Pointer: "/arguments/name", Detail: "must have at least 2 characters"}},
		`{"name":"SECRET"}`:                        {{Pointer: "/arguments/name", Detail: "must have at most 5 characters"}, {Pointer: "/arguments/name", Detail: "must match ^[a-z]+$"}},
		`{"name":"abc","n":10}`:                    {{Pointer: "/arguments/n", Detail: "must be at most 9"}},
		`{"name":"abc","n":1.5}`:                   {{Pointer: "/arguments/n", Detail: "must be of the type integer"}},
		`{"name":"abc","kind":"c"}`:                {{Pointer: "/arguments/kind", Detail: `must be one of "a", "b"`}},
		`{"name":"abc","list":["a",2]}`:            {{Pointer: "/arguments/list/1", Detail: "must be of the type string"}},
		`{"name":"abc","list":["a","b","c"]}`:      {{Pointer: "/arguments/list", Detail: "must have at most 2 items"}},
		`{"name":"abc","when":"yesterday"}`:        {{Pointer: "/arguments/when", Detail: "must have the format date"}},
		`{"name":"abc","either":1}`:                {{Pointer: "/arguments/either", Detail: "fits none of the forms that the tool takes"}},
		`{"name":"abc","a/b~c":1}`:                 {{Pointer: "/arguments/a~1b~0c", Detail: "must be of the type boolean"}},
		`{"name":"abc","x~/y":1}`:                  {{Pointer: "/arguments/x~0~1y", Detail: "is not an argument of this tool"}},
		`{"name":"abc","Name":"abc","nam\u0065":1`: nil,
	} {
		args, _, err := decodeToolCall([]byte(`{"arguments": ` + arguments + `}`))
		if err == nil {
			err = tool.fits(args)
		} else if want == nil {
			continue // the last is no JSON
		}
		e, _ := errors.AsType[*execution.Error](err)
		var got []execution.FieldError
		if e != nil {
			got = e.Fields
		}
		slices.SortFunc(got, func(a, b execution.FieldError) int { return strings.Compare(a.Pointer+a.Detail, b.Pointer+b.Detail) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", arguments, diff)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the value stands in the error, which is logged: %v", err)
		}
	}
	many := `{"name":"abc","list":[` + strings.Repeat("1,", 10_000) + `1]}`
	e, _ := errors.AsType[*execution.Error](tool.fits(json.RawMessage(many)))
	if e == nil || len(e.Fields) != maxFieldErrors || !strings.Contains(e.Detail, "many") {
		t.Errorf("10,000 wrong items: %v", e)
	}
}

func TestDecodeToolCall(t *testing.T) {
	args, metadata, err := decodeToolCall([]byte(` {"arguments" : { "b" : [ 1.50 , "x y" ], "a":null } , "metadata":{"agent":"bot"}} `))
	if err != nil || string(args) != `{"b":[1.50,"x y"],"a":null}` || metadata["agent"] != "bot" {
		t.Errorf("%s %v %v", args, metadata, err)
	}
	for body, pointer := range map[string]string{
		``:                                "",
		`null`:                            "",
		`[]`:                              "",
		`{}`:                              "/arguments",
		`{"arguments":null}`:              "/arguments",
		`{"arguments":[]}`:                "/arguments",
		`{"arguments":"{}"}`:              "/arguments",
		`{"arguments":{}}{}`:              "",
		`{"arguments":{},"Arguments":{}}`: "/Arguments",
		`{"arguments":{},"tool":"x"}`:     "/tool",
		`{"arguments":{},"image":"x"}`:    "/image",
		`{"arguments":{},"arguments":{}}`: "/arguments",
		`{"arguments":{"a":1,"a":2}}`:     "/arguments/a",
		`{"arguments":{"a":{"b":[{"c":1,"\u0063":2}]}}}`:                                                 "/arguments/a/b/0/c",
		`{"arguments":{"a":"x\u0000y"}}`:                                                                 "/arguments/a",
		`{"arguments":{"a\u0000":1}}`:                                                                    "/arguments/a\x00",
		"{\"arguments\":{\"a\":\"x\x00y\"}}":                                                             "/arguments/a",
		"{\"arguments\":{\"a\":\"\xff\"}}":                                                               "/arguments/a",
		`{"arguments":{"a":"\ud800"}}`:                                                                   "/arguments/a",
		`{"arguments":{"a":1e999}}`:                                                                      "/arguments/a",
		`{"arguments":{"a":1e-999999999}}`:                                                               "/arguments/a",
		`{"arguments":{"a":1e99999999999999999999}}`:                                                     "/arguments/a",
		`{"arguments":{"a":` + strings.Repeat("9", 100) + `}}`:                                           "/arguments/a",
		`{"arguments":{"a":NaN}}`:                                                                        "/arguments/a",
		`{"arguments":` + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 41):                    "/arguments",
		`{"arguments":{"a":` + strings.Repeat(`[`, 5000) + strings.Repeat("]", 5000) + "}}":              "/arguments",
		`{"arguments":{},"metadata":{"` + strings.Repeat("x", 100) + `":"y"}}`:                           "/metadata/" + strings.Repeat("x", 100),
		`{"arguments":{},"metadata":{"agent":null}}`:                                                     "/metadata/agent",
		`{"arguments":{},"session":"se_01ARYZ6S41TSV4RRFFQ69G5FAV","limits":{"pids":1},"env":{"A":"b"}}`: "/env",
	} {
		_, _, err := decodeToolCall([]byte(body))
		e, _ := errors.AsType[*execution.Error](err)
		if e == nil || e.Kind != execution.KindInvalid || e.Fields[0].Pointer != pointer {
			t.Errorf("%.80q: %v: want %q", body, err, pointer)
		}
	}
}

func FuzzDecodeToolCall(f *testing.F) {
	f.Add([]byte(`{"arguments":{"a":[1,-2.5e3,"x",null,true,{"b":{}}]},"metadata":{"agent":"a"}}`))
	f.Add([]byte(`{"arguments":{"a":"\u0000"}}`))
	f.Add([]byte(`{"arguments":{"a":1e999999999}}`))
	f.Add([]byte(`{"arguments":{"a":1,"\u0061":2}}`))
	compiled, err := compileArguments(json.RawMessage(`{"type":"object","properties":{"a":{"type":"number","multipleOf":0.5},"b":{"type":"string","pattern":"^(a+)+$"}},"additionalProperties":{"type":"array"}}`))
	if err != nil {
		f.Fatal(err)
	}
	tool := &tool{schema: compiled}
	f.Fuzz(func(t *testing.T, body []byte) {
		args, metadata, err := decodeToolCall(body)
		if err != nil {
			if execution.KindOf(err) != execution.KindInvalid {
				t.Errorf("error %v", err)
			}
			return
		}
		// What is decided, read by the tool and digested is one text, which says the same again.
		again, same, err := decodeToolCall([]byte(`{"arguments":` + string(args) + `}`))
		if err != nil || string(again) != string(args) || len(same) != 0 || len(metadata) > maxMetadata {
			t.Errorf("%s reads back as %s %v", args, again, err)
		}
		var plain map[string]any
		if err := json.Unmarshal(args, &plain); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		if strings.ContainsRune(string(args), 0) {
			t.Errorf("%q holds NUL", args)
		}
		if err := tool.fits(args); err != nil && execution.KindOf(err) != execution.KindInvalid {
			t.Errorf("%s: %v", args, err)
		}
	})
}
