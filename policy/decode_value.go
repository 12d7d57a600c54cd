package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What lists of a decision document may hold.
const (
	maxElements = 10_000 // any list
	maxGrants   = 256    // network.rules and credentials, of which each is held against each
)

// fieldError is what is wrong with one field, by its path in the document. The
// path is put together on the way out, so that a valid answer pays nothing.
type fieldError struct {
	path string
	what string
}

func (e *fieldError) Error() string {
	if e.path == "" {
		return e.what
	}
	return e.path + " " + e.what
}

var errUnknownField = errors.New("is not a field of a decision")

func problem(path, what string) error { return &fieldError{path: path, what: what} }

// within adds the outer part of the path to an error.
func within(outer string, err error) error {
	inner, ok := errors.AsType[*fieldError](err)
	switch {
	case !ok:
		return &fieldError{path: outer, what: err.Error()}
	case inner.path == "":
		return &fieldError{path: outer, what: inner.what}
	case inner.path[0] == '[':
		return &fieldError{path: outer + inner.path, what: inner.what}
	}
	return &fieldError{path: outer + "." + inner.path, what: inner.what}
}

// fields calls field for every member of an object.
func fields(v ast.Value, field func(key string, v ast.Value) error) error {
	object, ok := v.(ast.Object)
	if !ok {
		return wrongType("an object", v)
	}
	return object.Iter(func(k, v *ast.Term) error {
		key, ok := k.Value.(ast.String)
		if !ok {
			return problem("", "has a key that is not a string")
		}
		if err := field(string(key), v.Value); err != nil {
			return within(shorten(string(key)), err)
		}
		return nil
	})
}

// only is the field function of an object with one possible member.
func only(name string, decode func(ast.Value) error) func(string, ast.Value) error {
	return func(key string, v ast.Value) error {
		if key != name {
			return errUnknownField
		}
		return decode(v)
	}
}

// list decodes an array into out, or a set, which is what a partial rule makes
// and JSON shows as an array too. The order of a set is the one Rego sorts by.
func list[T any](v ast.Value, out *[]T, decode func(ast.Value, *T) error) error {
	return listUpTo(maxElements, v, out, decode)
}

func listUpTo[T any](most int, v ast.Value, out *[]T, decode func(ast.Value, *T) error) error {
	var elements []*ast.Term
	switch v := v.(type) {
	case *ast.Array:
		if v.Len() > most {
			return problem("", fmt.Sprintf("has more than %d elements", most))
		}
		elements = make([]*ast.Term, 0, v.Len())
		v.Foreach(func(t *ast.Term) { elements = append(elements, t) })
	case ast.Set:
		if v.Len() > most {
			return problem("", fmt.Sprintf("has more than %d elements", most))
		}
		elements = v.Slice()
	default:
		return wrongType("an array", v)
	}
	*out = make([]T, len(elements))
	for i, element := range elements {
		if err := decode(element.Value, &(*out)[i]); err != nil {
			return within("["+strconv.Itoa(i)+"]", err)
		}
	}
	return nil
}

func stringsOf(v ast.Value, out *[]string) error { return list(v, out, stringOf) }

func nullable[T any](v ast.Value, out **T, decode func(ast.Value, *T) error) error {
	if _, null := v.(ast.Null); null {
		return nil
	}
	*out = new(T)
	return decode(v, *out)
}

func stringOf(v ast.Value, out *string) error {
	s, ok := v.(ast.String)
	if !ok {
		return wrongType("a string", v)
	}
	*out = string(s)
	return nil
}

func boolOf(v ast.Value, out *bool) error {
	b, ok := v.(ast.Boolean)
	if !ok {
		return wrongType("a boolean", v)
	}
	*out = bool(b)
	return nil
}

// wholeOf decodes a whole number that is not negative. It wants plain digits:
// 1e3 and 1.0 come of arithmetic that went through fractions.
func wholeOf(v ast.Value, out *int64) error {
	n, ok := v.(ast.Number)
	if !ok {
		return wrongType("a number", v)
	}
	digits := string(n)
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		return problem("", "is negative or not a number")
	}
	parsed, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return problem("", "is out of range")
	}
	if err != nil {
		return problem("", "is not a whole number")
	}
	*out = parsed
	return nil
}

func oneOf[T ~string](v ast.Value, out *T, known ...T) error {
	var s string
	if err := stringOf(v, &s); err != nil {
		return err
	}
	if !slices.Contains(known, T(s)) {
		return problem("", "is none of "+fmt.Sprintf("%q", known))
	}
	*out = T(s)
	return nil
}

func wrongType(want string, got ast.Value) error {
	return problem("", "is "+ast.ValueName(got)+" and not "+want)
}

// shorten keeps a key that a policy made up from filling a message.
func shorten(key string) string {
	if len(key) <= 64 {
		return key
	}
	return key[:64] + "…"
}
