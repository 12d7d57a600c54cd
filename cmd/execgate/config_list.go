package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// positioned is what keeps where in the file it stands.
type positioned interface{ standsAt(node *yaml.Node) }

// readList reads a sequence into a slice: of scalars, or of groups of keys.
func readList(node *yaml.Node, key string, into reflect.Value) error {
	if isNull(node) {
		return nil
	}
	if into.Type() == reflect.TypeFor[json.RawMessage]() {
		return readJSON(node, key, into)
	}
	if node.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: %s must be a list", node.Line, key)
	}
	list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	var errs []error
	for i, element := range node.Content {
		name := fmt.Sprintf("%s[%d]", key, i)
		if isNull(element) {
			errs = append(errs, fmt.Errorf("line %d: %s has no value", element.Line, name))
			continue
		}
		if list.Index(i).Kind() != reflect.Struct {
			errs = append(errs, readValue(element, name, list.Index(i)))
			continue
		}
		errs = append(errs, readGroup(element, name+".", list.Index(i)))
		if p, ok := list.Index(i).Addr().Interface().(positioned); ok {
			p.standsAt(element)
		}
	}
	into.Set(list)
	return errors.Join(errs...)
}

// readJSON reads whatever stands there as the JSON that it means.
func readJSON(node *yaml.Node, key string, into reflect.Value) error {
	value, err := plainOf(node, key)
	if err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("line %d: %s cannot be JSON", node.Line, key)
	}
	into.SetBytes(text)
	return nil
}

// plainOf is a node as encoding/json takes it. Of YAML only what JSON has too is taken:
// no anchors, no merging, no tags, and names that are text.
func plainOf(node *yaml.Node, key string) (any, error) {
	switch node.Kind {
	case yaml.MappingNode:
		object := make(map[string]any, len(node.Content)/2)
		for i := 0; i < len(node.Content); i += 2 {
			name, value := node.Content[i], node.Content[i+1]
			if name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str" {
				return nil, fmt.Errorf("line %d: a name in %s must be text, in quotes where it looks like something else", name.Line, key)
			}
			if _, again := object[name.Value]; again {
				return nil, fmt.Errorf("line %d: the key %q stands in %s already", name.Line, name.Value, key)
			}
			var err error
			if object[name.Value], err = plainOf(value, key); err != nil {
				return nil, err
			}
		}
		return object, nil
	case yaml.SequenceNode:
		list := make([]any, len(node.Content))
		for i, element := range node.Content {
			var err error
			if list[i], err = plainOf(element, key); err != nil {
				return nil, err
			}
		}
		return list, nil
	case yaml.ScalarNode:
		switch node.ShortTag() {
		case "!!null":
			return nil, nil
		case "!!str":
			return node.Value, nil
		case "!!bool":
			var value bool
			err := node.Decode(&value)
			return value, err
		case "!!int", "!!float":
			if json.Valid([]byte(node.Value)) {
				return json.Number(node.Value), nil // as it is written, however long
			}
		}
	}
	return nil, fmt.Errorf("line %d: %s must be what JSON has too", node.Line, key)
}
