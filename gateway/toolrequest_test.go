package gateway

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// templateOf takes a template apart as a registry does.
func templateOf(t testing.TB, method, url, schema string) *requestTemplate {
	t.Helper()
	tools, err := NewTools([]execution.Tool{{
		Name: "tool", Description: "d", Kind: execution.ToolHTTP, Arguments: json.RawMessage(schema),
		Request: &execution.ToolRequest{Method: method, URL: url}, Network: []execution.Destination{{Host: "api.example.com", Port: 443}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return tools.get("tool").template
}

const anySchema = `{"type":"object","properties":{"id":{},"part":{},"q":{},"n":{}},"required":["id","part"]}`

func TestRequestsAreMadeOfArguments(t *testing.T) {
	for name, test := range map[string]struct {
		method, template, arguments string
		target, body                string
	}{
		"no path":                     {"GET", "", `{}`, "/", ""},
		"a root":                      {"GET", "/", `{}`, "/", ""},
		"a part of the path":          {"GET", "/v1/items/{id}", `{"id":"a b"}`, "/v1/items/a%20b", ""},
		"parts of one segment":        {"GET", "/{id}-{part}.json", `{"id":"a","part":2.50}`, "/a-2.50.json", ""},
		"parts that are plain":        {"GET", "/@x:y/{id}", `{"id":"a-b_c.d~e"}`, "/@x:y/a-b_c.d~e", ""},
		"what a path could read":      {"GET", "/{id}/x", `{"id":"?a=1&b#c=:@"}`, "/%3Fa%3D1%26b%23c%3D%3A%40/x", ""},
		"another script":              {"GET", "/{id}", `{"id":"Zürich 東京"}`, "/Z%C3%BCrich%20%E6%9D%B1%E4%BA%AC", ""},
		"an argument of no schema":    {"GET", "/{id}", `{"id":true}`, "/true", ""},
		"a parameter":                 {"GET", "/x?q={q}&fixed=1&flag", `{"q":"a&b=c#d +%"}`, "/x?q=a%26b%3Dc%23d%20%2B%25&fixed=1&flag", ""},
		"a parameter with a line":     {"GET", "/x?q={q}", `{"q":"a\r\nHost: evil"}`, "/x?q=a%0D%0AHost%3A%20evil", ""},
		"a parameter that is missing": {"GET", "/x?q={q}&n={n}", `{"n":1}`, "/x?n=1", ""},
		"one that is null":            {"GET", "/x?q={q}", `{"q":null}`, "/x", ""},
		"half of one is missing":      {"GET", "/x?q={q}-{n}", `{"n":1}`, "/x", ""},
		"further parameters":          {"GET", "/x?q={q}", `{"z":"a b","q":"1","Y-y":[1,"b",false],"w":null,"v":[]}`, "/x?q=1&z=a%20b&Y-y=1&Y-y=b&Y-y=false", ""},
		"of DELETE too":               {"DELETE", "/x", `{"z":1}`, "/x?z=1", ""},
		"a body":                      {"POST", "/{id}?q={q}", `{"b":{"x":[1.0,"\u00e9\""]},"id":"7","q":"s","a":null}`, "/7?q=s", `{"b":{"x":[1.0,"\u00e9\""]},"a":null}`},
		"a body of nothing":           {"PUT", "/{id}", `{"id":"7"}`, "/7", `{}`},
		"names that are escaped":      {"PATCH", "/", `{"\u0061\"\u2028":1}`, "/", "{\"a\\\"\u2028\":1}"},
	} {
		t.Run(name, func(t *testing.T) {
			call, err := templateOf(t, test.method, "https://api.example.com"+test.template, anySchema).expand(json.RawMessage(test.arguments))
			if err != nil {
				t.Fatal(err)
			}
			if call.Target != test.target || string(call.Body) != test.body || call.Method != test.method || call.To != (execution.Destination{Host: "api.example.com", Port: 443}) {
				t.Errorf("%+v\nwith the body %s", call, call.Body)
			}
			if len(call.Body) > 0 && !json.Valid(call.Body) {
				t.Error("the body is no JSON")
			}
		})
	}
}

// What cannot stand where the template has it is told by its name, and nothing is made.
func TestArgumentsThatNoRequestIsMadeOf(t *testing.T) {
	const path, query = "/v1/{id}/{part}/end", "/x?format=json&filter[a]=1&api-key=2"
	for name, test := range map[string]struct {
		template, arguments string
		pointers            []string
	}{
		"another segment":      {path, `{"id":"a/b","part":"x"}`, []string{"/arguments/id"}},
		"the segment above":    {path, `{"id":"..","part":"."}`, []string{"/arguments/id", "/arguments/part"}},
		"no segment":           {path, `{"id":"","part":"x"}`, []string{"/arguments/id"}},
		"an escape":            {path, `{"id":"%2f","part":"%2e%2e"}`, []string{"/arguments/id", "/arguments/part"}},
		"a backslash":          {path, `{"id":"a\\b","part":"x;y"}`, []string{"/arguments/id", "/arguments/part"}},
		"lines":                {path, `{"id":"a\r\nb","part":"\u0000"}`, []string{"/arguments/id", "/arguments/part"}},
		"a list":               {path, `{"id":["a"],"part":{}}`, []string{"/arguments/id", "/arguments/part"}},
		"null":                 {path, `{"id":null,"part":"x"}`, []string{"/arguments/id"}},
		"climbing in two":      {"/v1/{id}{part}", `{"id":".","part":"."}`, []string{"/arguments/id"}},
		"climbing by nothing":  {"/v1/..{id}", `{"id":""}`, []string{"/arguments/id"}},
		"a list of the query":  {"/x?q={q}", `{"q":["a"]}`, []string{"/arguments/q"}},
		"an object":            {query, `{"a":{"b":1}}`, []string{"/arguments/a"}},
		"lists in lists":       {query, `{"a":[[1]]}`, []string{"/arguments/a"}},
		"a list with nothing":  {query, `{"a":[null]}`, []string{"/arguments/a"}},
		"the tool's own":       {query, `{"format":"xml"}`, []string{"/arguments/format"}},
		"in another case":      {query, `{"Format":"xml"}`, []string{"/arguments/Format"}},
		"without its brackets": {query, `{"filter":"xml"}`, []string{"/arguments/filter"}},
		"in another spelling":  {query, `{"api_key":"x"}`, []string{"/arguments/api_key"}},
		"a name that is two":   {query, `{"a&format":"x","b=c":"1","d[]":1,"":1}`, []string{"/arguments/a&format", "/arguments/b=c", "/arguments/d[]", "/arguments/"}},
		"a URL without end":    {query, `{"a":"` + strings.Repeat("x", maxTarget) + `"}`, []string{"/arguments"}},
	} {
		t.Run(name, func(t *testing.T) {
			call, err := templateOf(t, "GET", "https://api.example.com"+test.template, anySchema).expand(json.RawMessage(test.arguments))
			e, ok := errors.AsType[*execution.Error](err)
			if !ok || e.Kind != execution.KindInvalid {
				t.Fatalf("%+v, %v", call, err)
			}
			var pointers []string
			for _, field := range e.Fields {
				pointers = append(pointers, field.Pointer)
			}
			slices.Sort(pointers)
			slices.Sort(test.pointers)
			if !slices.Equal(pointers, test.pointers) {
				t.Errorf("%v: want %v", e.Fields, test.pointers)
			}
		})
	}
}

// Whatever the arguments, a request goes where its template says, along a path of its
// shape, with its parameters, and no server reads an argument as anything else.
func FuzzRequestIsOfItsTemplate(f *testing.F) {
	for _, seed := range []string{"a", "..", ".", "", "%2e%2e", "%252f", "a/b", `a\b`, "a;b", "a?b#c", "\r\nX: y", "\x00", "@evil.example", "evil.example:80", "．．／", "\u202e", "&q=2", "é"} {
		f.Add(seed, seed, seed)
	}
	template := templateOf(f, "GET", "https://api.example.com/v1/{id}/x-{part}/end?q={q}&fixed=1", anySchema)
	f.Fuzz(func(t *testing.T, id, part, q string) {
		arguments, err := json.Marshal(map[string]string{"id": id, "part": part, "q": q, "further": q})
		if err != nil {
			t.Fatal(err)
		}
		call, err := template.expand(arguments)
		if err != nil {
			if execution.KindOf(err) != execution.KindInvalid {
				t.Fatal(err)
			}
			return
		}
		if call.To != (execution.Destination{Host: "api.example.com", Port: 443}) {
			t.Fatalf("it goes to %v", call.To)
		}
		u, err := url.Parse("https://api.example.com" + call.Target)
		if err != nil || u.Host != "api.example.com" || u.User != nil || u.Fragment != "" || strings.Trim(call.Target, plainInPath+"%?") != "" {
			t.Fatalf("%q: %v", call.Target, err)
		}
		var sent map[string]string // as JSON has it
		if err := json.Unmarshal(arguments, &sent); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{u.Path, u.EscapedPath()} { // whichever a server takes apart
			segments := strings.Split(path, "/")
			if len(segments) != 5 || segments[1] != "v1" || segments[4] != "end" || !strings.HasPrefix(segments[3], "x-") || slices.Contains(segments, "..") || slices.Contains(segments, ".") || segments[2] == "" {
				t.Fatalf("%q has the segments %q", call.Target, segments)
			}
		}
		if segments := strings.Split(u.Path, "/"); segments[2] != sent["id"] || segments[3] != "x-"+sent["part"] {
			t.Fatalf("%q became %q", sent, segments)
		}
		if strings.Count(u.RawQuery, "&") != 2 || strings.Count(u.RawQuery, "=") != 3 {
			t.Fatalf("the query is %q", u.RawQuery)
		}
		if got := u.Query(); len(got) != 3 || got.Get("fixed") != "1" || got.Get("q") != sent["q"] || got.Get("further") != sent["q"] {
			t.Fatalf("the query is %q", got)
		}
	})
}
