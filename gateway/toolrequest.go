package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/execgate/execgate/execution"
)

// maxTarget bounds what arguments make of a URL, in bytes: most servers take no more.
const maxTarget = 8 << 10

// argument is one member of the arguments.
type argument struct {
	name  string
	value jsontext.Value
}

// expand is the request that a call with these arguments makes, which fit the tool's
// schema. Arguments change neither where it goes, nor how many segments its path has,
// nor which parameters the template has in its query. The error is of KindInvalid with
// pointers for what cannot stand where the template has it.
func (r *requestTemplate) expand(arguments json.RawMessage) (execution.HTTPCall, error) {
	given, err := argumentsOf(arguments)
	if err != nil {
		return execution.HTTPCall{}, internal("read arguments", err)
	}
	f := &faults{}
	named, rest := map[string]string{}, []argument(nil)
	for _, a := range given {
		if !r.named[a.name] {
			rest = append(rest, a)
		} else if text, ok := a.text(); ok {
			named[a.name] = text
		} else if a.value.Kind() != 'n' {
			f.add(a.pointer(), "must be a string, a number or a boolean: it is a part of a URL")
			named[a.name] = "x" // it is told of once
		}
	}
	call := execution.HTTPCall{Method: r.method, To: r.to, Target: r.path(named, f)}
	query := r.parameters(named)
	if hasBody(r.method) {
		call.Body = object(rest)
	} else {
		query = append(query, r.further(rest, f)...)
	}
	if len(query) > 0 {
		call.Target += "?" + strings.Join(query, "&")
	}
	if len(call.Target) > maxTarget {
		f.addf("/arguments", "must not make a URL of more than %d bytes", maxTarget)
	}
	return call, f.err()
}

// hasBody reports whether requests of that method have the arguments as their body.
func hasBody(method string) bool {
	return slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, method)
}

// path is the path with the arguments in it, each a part of one segment. What some
// server could read as more, or as another place, is a fault: the broker would refuse it.
func (r *requestTemplate) path(named map[string]string, f *faults) string {
	var path strings.Builder
	for _, segment := range r.segments {
		places := placeholder.FindAllStringSubmatch(segment, -1)
		given := 0
		for _, found := range places {
			text, ok := named[found[1]]
			if ok {
				given++
			}
			switch {
			case !ok:
				f.add("/arguments"+pointerTo(found[1]), "is required: it is a part of a URL's path")
			case strings.ContainsAny(text, `/\;%`) || strings.ContainsFunc(text, isControl):
				f.add("/arguments"+pointerTo(found[1]), `must have no "/", "\", ";", "%" or control character: it is a part of a URL's path`)
			}
		}
		plain := fill(segment, named, func(s string) string { return s })
		if given > 0 && (plain == "" || plain == "." || plain == "..") {
			f.add("/arguments"+pointerTo(places[0][1]), `must not be "." or ".." or empty: it is a part of a URL's path`)
		}
		path.WriteString("/" + fill(segment, named, escape))
	}
	if path.Len() == 0 {
		return "/"
	}
	return path.String()
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// parameters are those of the template. One that an argument is missing for is left out.
func (r *requestTemplate) parameters(named map[string]string) (query []string) {
	for _, p := range r.query {
		lacks := slices.ContainsFunc(placeholder.FindAllStringSubmatch(p.value, -1), func(found []string) bool {
			_, given := named[found[1]]
			return !given
		})
		switch {
		case lacks:
		case p.bare:
			query = append(query, p.name)
		default:
			query = append(query, p.name+"="+fill(p.value, named, escape))
		}
	}
	return query
}

// furtherName is the name of an argument that can be a parameter: one that servers read
// in one way.
var furtherName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// further are the parameters of arguments that the template does not name: one for each
// item of an array, and none for null.
func (r *requestTemplate) further(rest []argument, f *faults) (query []string) {
	for _, a := range rest {
		taken := func(p templateParameter) bool { return strings.EqualFold(parameterName(p.name), parameterName(a.name)) }
		texts, ok := a.texts()
		switch {
		case !furtherName.MatchString(a.name):
			f.add(a.pointer(), "must have a name of letters, digits, '_' and '-': it is a parameter of a URL")
		case slices.ContainsFunc(r.query, taken):
			f.add(a.pointer(), "is a parameter that the tool sets itself")
		case !ok:
			f.add(a.pointer(), "must be a string, a number, a boolean, or an array of these: it is a parameter of a URL")
		}
		for _, text := range texts {
			query = append(query, escape(a.name)+"="+escape(text))
		}
	}
	return query
}

// parameterName is the name that some server may read a parameter's as: without brackets,
// and with "_" for what cannot stand in the name of a variable.
func parameterName(name string) string {
	name, _, _ = strings.Cut(name, "[")
	return strings.NewReplacer(".", "_", "-", "_").Replace(name)
}

// fill puts arguments into a part of a template.
func fill(part string, named map[string]string, as func(string) string) string {
	return placeholder.ReplaceAllStringFunc(part, func(found string) string {
		return as(named[found[1:len(found)-1]])
	})
}

// escape is text with every byte escaped that has, or could have, a meaning in a URL.
func escape(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(text) {
		if strings.IndexByte(unreserved, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// argumentsOf are the members of an object, in its order.
func argumentsOf(arguments json.RawMessage) (given []argument, err error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(arguments))
	for _, err = d.ReadToken(); err == nil && d.PeekKind() != '}'; {
		var name jsontext.Token
		if name, err = d.ReadToken(); err != nil {
			break
		}
		a := argument{name: name.String()} // before the next read, which reuses its memory
		if a.value, err = d.ReadValue(); err == nil {
			a.value = a.value.Clone()
			given = append(given, a)
		}
	}
	return given, err
}

// object is an object of arguments, as JSON.
func object(arguments []argument) []byte {
	text := []byte{'{'}
	for i, a := range arguments {
		if i > 0 {
			text = append(text, ',')
		}
		text, _ = jsontext.AppendQuote(text, a.name) // it came as JSON, so that it is UTF-8
		text = append(append(text, ':'), a.value...)
	}
	return append(text, '}')
}

func (a argument) pointer() string { return "/arguments" + pointerTo(a.name) }

// text is what a value is in a URL; false where it is no one text.
func (a argument) text() (string, bool) { return textOf(a.value) }

func textOf(value jsontext.Value) (string, bool) {
	switch value.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		return string(text), err == nil
	case '0', 't', 'f':
		return string(value), true
	}
	return "", false
}

// texts are what a value is in a URL as a parameter; false where it cannot be one.
func (a argument) texts() (texts []string, ok bool) {
	if a.value.Kind() == 'n' {
		return nil, true
	}
	if a.value.Kind() != '[' {
		text, ok := a.text()
		return []string{text}, ok
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(a.value))
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	for d.PeekKind() != ']' {
		item, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		text, ok := textOf(item)
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}
