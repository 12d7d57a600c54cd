package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// maxNesting bounds how deep arrays and objects of a JSON document nest. The
// evaluator walks them recursively.
const maxNesting = 64

// addData puts the members of a data.json under data, at the path of its folder.
func (s *source) addData(name string, content []byte) error {
	value, err := strictJSON(content)
	if err != nil {
		return bundleErrorf("%s: %v", name, err)
	}
	members, ok := value.(map[string]any)
	if !ok {
		return bundleErrorf("%s: is not an object", name)
	}
	under := s.data
	if folder := path.Dir(name); folder != "." {
		for key := range strings.SplitSeq(folder, "/") {
			next, ok := under[key].(map[string]any)
			if _, taken := under[key]; taken && !ok {
				return bundleErrorf("%s: %q is defined by another data.json", name, key)
			}
			if next == nil {
				next = make(map[string]any)
				under[key] = next
			}
			under = next
		}
	}
	return merge(name, under, members)
}

// merge adds members to under and refuses to replace anything.
func merge(name string, under, members map[string]any) error {
	for key, value := range members {
		old, taken := under[key]
		if !taken {
			under[key] = value
			continue
		}
		oldMembers, ok := old.(map[string]any)
		newMembers, okNew := value.(map[string]any)
		if !ok || !okNew {
			return bundleErrorf("%s: %q is defined by another data.json", name, key)
		}
		if err := merge(name, oldMembers, newMembers); err != nil {
			return err
		}
	}
	return nil
}

// strictJSON decodes one JSON document and refuses what decoders quietly take
// in different ways: repeated keys, of which one would win; numbers that no
// float64 holds; nesting without end; and anything after the document.
func strictJSON(content []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	value, err := strictValue(d, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (before byte %d)", err, d.InputOffset())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the document (at byte %d)", d.InputOffset())
	}
	return value, nil
}

func strictValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested more than %d deep", maxNesting)
	}
	token, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return strictArray(d, depth)
		}
		return strictObject(d, depth)
	case json.Number:
		if len(t) > maxNumberBytes {
			return nil, fmt.Errorf("the number %.40s… has more than %d bytes", string(t), maxNumberBytes)
		}
		if _, err := strconv.ParseFloat(string(t), 64); err != nil {
			return nil, fmt.Errorf("the number %.40s is out of range", string(t))
		}
		return t, nil
	default:
		return token, nil
	}
}

func strictArray(d *json.Decoder, depth int) (any, error) {
	elements := []any{}
	for d.More() {
		value, err := strictValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		elements = append(elements, value)
	}
	_, err := d.Token() // the closing bracket
	return elements, err
}

func strictObject(d *json.Decoder, depth int) (any, error) {
	members := make(map[string]any)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, errors.New("a key is not a string")
		}
		if _, twice := members[key]; twice {
			return nil, fmt.Errorf("the key %.100q is there twice", key)
		}
		value, err := strictValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		members[key] = value
	}
	_, err := d.Token() // the closing brace
	return members, err
}
