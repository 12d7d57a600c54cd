package execution_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

// schemaNode is what the test knows of JSON Schema.
type schemaNode struct {
	Ref         string                 `json:"$ref"`
	Defs        map[string]*schemaNode `json:"$defs"`
	Description string                 `json:"description"`
	Type        json.RawMessage        `json:"type"`
	Const       any                    `json:"const"`
	Enum        []any                  `json:"enum"`
	OneOf       []*schemaNode          `json:"oneOf"`
	Properties  map[string]*schemaNode `json:"properties"`
	Required    []string               `json:"required"`
	Items       *schemaNode            `json:"items"`
	Additional  json.RawMessage        `json:"additionalProperties"`
}

func recordSchema(t *testing.T) *schemaNode {
	t.Helper()
	root := &schemaNode{}
	if err := json.Unmarshal(execution.RecordSchema, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// The schema names every member that a record can have, says which are always
// there, and describes each; and nothing else.
func TestRecordSchemaIsTheTypes(t *testing.T) {
	root := recordSchema(t)
	used := map[string]bool{"time": true, "sha256": true}
	checkObject(t, root, used, root, reflect.TypeFor[execution.Record](), "record")
	if diff := cmp.Diff(slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(root.Defs))); diff != "" {
		t.Errorf("definitions that are used and that are there differ:\n%s", diff)
	}
}

func checkObject(t *testing.T, root *schemaNode, used map[string]bool, node *schemaNode, of reflect.Type, at string) {
	t.Helper()
	var names, required []string
	for _, field := range reflect.VisibleFields(of) {
		name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous || name == "-" {
			continue
		}
		names = append(names, name)
		if option == "" {
			required = append(required, name)
		}
		if property := node.Properties[name]; property != nil {
			checkValue(t, root, used, property, field.Type, at+"."+name)
		}
	}
	sorted := func(names []string) []string { return slices.Sorted(slices.Values(names)) }
	if diff := cmp.Diff(sorted(names), slices.Sorted(maps.Keys(node.Properties))); diff != "" {
		t.Errorf("%s: the members of the type and of the schema differ:\n%s", at, diff)
	}
	if diff := cmp.Diff(sorted(required), sorted(node.Required)); diff != "" {
		t.Errorf("%s: what the type and the schema always have differs:\n%s", at, diff)
	}
	if string(node.Additional) != "false" || node.Description == "" {
		t.Errorf("%s takes members that it does not name, or has no description", at)
	}
}

func checkValue(t *testing.T, root *schemaNode, used map[string]bool, node *schemaNode, of reflect.Type, at string) {
	t.Helper()
	described := node.Description != ""
	if name, ok := strings.CutPrefix(node.Ref, "#/$defs/"); ok {
		if node = root.Defs[name]; node == nil {
			t.Fatalf("%s: there is no definition %q", at, name)
		}
		seen := used[name]
		used[name] = true
		described = described || node.Description != ""
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if seen && of.Kind() == reflect.Struct && of != reflect.TypeFor[time.Time]() {
			return
		}
	}
	if strings.Count(at, "[") == 0 && !described {
		t.Errorf("%s has no description", at)
	}
	want := map[reflect.Kind]string{
		reflect.String: `"string"`, reflect.Bool: `"boolean"`, reflect.Slice: `"array"`, reflect.Map: `"object"`, reflect.Struct: `"object"`,
		reflect.Int: `"integer"`, reflect.Int64: `"integer"`, reflect.Uint64: `"integer"`, reflect.Pointer: `["integer", "null"]`,
	}[of.Kind()]
	switch {
	case of == reflect.TypeFor[time.Time]():
		want = `"string"`
	case of == reflect.TypeFor[json.RawMessage]():
		want = `"object"`
	case node.Const != nil || node.OneOf != nil:
		return // the version, and the type: see TestRecordSchemaHasEveryConstant
	case of.Kind() == reflect.Struct:
		checkObject(t, root, used, node, of, at)
	case of.Kind() == reflect.Slice:
		checkValue(t, root, used, node.Items, of.Elem(), at+"[]")
	}
	if at == "record.principal.roles" {
		want = `["array", "null"]` // see its description
	}
	if string(node.Type) != want {
		t.Errorf("%s is %s in the schema, and %s is %s", at, node.Type, of, want)
	}
}

// Every constant of the types whose values the schema lists is in it.
func TestRecordSchemaHasEveryConstant(t *testing.T) {
	root := recordSchema(t)
	var types []any
	for _, option := range root.Properties["type"].OneOf {
		if option.Description == "" {
			t.Errorf("the type %v has no description", option.Const)
		}
		types = append(types, option.Const)
	}
	var known []string
	for _, kind := range execution.RecordTypes() {
		known = append(known, string(kind))
	}
	slices.Sort(known)
	if diff := cmp.Diff(known, texts(types)); diff != "" {
		t.Errorf("RecordTypes and the schema differ:\n%s", diff)
	}
	property := func(definition, name string) []any { return root.Defs[definition].Properties[name].Enum }
	for goType, listed := range map[string][]any{
		"RecordType":    types,
		"Effect":        property("decision", "effect"),
		"Action":        property("decided", "action"),
		"Outcome":       property("ended", "outcome"),
		"Start":         property("started", "start"),
		"SessionEvent":  property("session_change", "what"),
		"SessionEnd":    property("session_change", "reason"),
		"Inject":        property("credential", "inject"),
		"NetworkMode":   property("network_rule", "mode"),
		"NetworkDecide": property("network", "decide"),
		"RemovalReason": property("segments_removed", "reason"),
		"Reuse":         property("grant", "reuse"),
	} {
		if diff := cmp.Diff(constantsOf(t, goType), texts(listed)); diff != "" {
			t.Errorf("the constants of %s and the schema differ:\n%s", goType, diff)
		}
	}
}

// constantsOf are the values of the constants of a type of this package, sorted.
func constantsOf(t *testing.T, goType string) (values []string) {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	constant := regexp.MustCompile(`(?m)^(?:\t|const )\w+ +` + goType + ` += "(\w+)"`)
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range constant.FindAllStringSubmatch(string(text), -1) {
			values = append(values, found[1])
		}
	}
	slices.Sort(values)
	return values
}

func texts(values []any) (texts []string) {
	for _, v := range values {
		texts = append(texts, v.(string))
	}
	slices.Sort(texts)
	return texts
}
