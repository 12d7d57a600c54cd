package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// readConfigFile reads YAML over cfg, more strictly than the library would: a
// key that is not known or stands twice, and a value of another type than
// config.schema.json says, are errors that name their line. A key without a
// value keeps its default. Values are not repeated: one may be a secret that
// was put in the wrong place.
func readConfigFile(path string, cfg *Config) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	switch err := documents.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil // nothing but comments
	case err != nil:
		return err
	}
	if err := documents.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document in the file")
	}
	return readGroup(document.Content[0], "", reflect.ValueOf(cfg).Elem())
}

// readGroup reads a mapping into a struct.
func readGroup(node *yaml.Node, prefix string, into reflect.Value) error {
	if isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: here must be a group of keys", node.Line)
	}
	fields := map[string]reflect.Value{}
	for field, value := range into.Fields() {
		if key := field.Tag.Get("yaml"); key != "-" {
			fields[key] = value
		}
	}
	var errs []error
	lines := map[string]int{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field, known := fields[key.Value]
		first, again := lines[key.Value]
		lines[key.Value] = key.Line
		switch name := prefix + key.Value; {
		case !known:
			errs = append(errs, fmt.Errorf("line %d: there is no key %q", key.Line, name))
		case again:
			errs = append(errs, fmt.Errorf("line %d: the key %q stands in line %d already", key.Line, name, first))
		case field.Kind() == reflect.Struct:
			errs = append(errs, readGroup(value, name+".", field))
		case field.Kind() == reflect.Pointer && isNull(value):
		case field.Kind() == reflect.Pointer:
			field.Set(reflect.New(field.Type().Elem()))
			errs = append(errs, readGroup(value, name+".", field.Elem()))
		case field.Kind() == reflect.Slice:
			errs = append(errs, readList(value, name, field))
		case field.Kind() == reflect.Map:
			errs = append(errs, readTable(value, name, field))
		default:
			errs = append(errs, readValue(value, name, field))
		}
	}
	return errors.Join(errs...)
}

// readTable reads a mapping whose keys are names of the operator's.
func readTable(node *yaml.Node, key string, into reflect.Value) error {
	if isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s must be a group of names", node.Line, key)
	}
	table := reflect.MakeMap(into.Type())
	var errs []error
	lines := map[string]int{}
	for i := 0; i < len(node.Content); i += 2 {
		var name string
		if err := readValue(node.Content[i], "a name in "+key, reflect.ValueOf(&name).Elem()); err != nil {
			errs = append(errs, err)
			continue
		}
		value := reflect.New(into.Type().Elem()).Elem()
		if first, again := lines[name]; again {
			errs = append(errs, fmt.Errorf("line %d: the key %q stands in line %d already", node.Content[i].Line, key+"."+name, first))
		}
		lines[name] = node.Content[i].Line
		errs = append(errs, readValue(node.Content[i+1], key+"."+name, value))
		table.SetMapIndex(reflect.ValueOf(name), value)
	}
	into.Set(table)
	return errors.Join(errs...)
}

// readValue reads a scalar into a setting.
func readValue(node *yaml.Node, key string, into reflect.Value) error {
	if isNull(node) {
		return nil
	}
	tag, kind := "!!str", "text, in quotes where it looks like something else"
	switch into.Kind() {
	case reflect.Int, reflect.Int64:
		tag, kind = "!!int", "a whole number"
	case reflect.Bool:
		tag, kind = "!!bool", "true or false"
	}
	if node.Kind != yaml.ScalarNode || node.ShortTag() != tag || node.Decode(into.Addr().Interface()) != nil {
		return fmt.Errorf("line %d: %s must be %s", node.Line, key, kind)
	}
	return nil
}

// isNull reports whether a key has no value, as where all below it is commented
// out.
func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }
