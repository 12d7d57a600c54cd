package gateway

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// requestTemplate is the template of a tool's request, checked and taken apart: an
// argument stands in a segment of the path, or in the value of a parameter, and nowhere
// else.
type requestTemplate struct {
	method   string
	to       execution.Destination
	segments []string // of the path
	query    []templateParameter
	named    map[string]bool // arguments that stand in it
}

// templateParameter is a parameter of the query as the template has it.
type templateParameter struct {
	name, value string
	bare        bool // it has no "="
}

// placeholder is an argument's place in a template.
var placeholder = regexp.MustCompile(`\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// plainInPath are the characters that stand in a path as they are, and that the broker
// forwards so (egress, normalisePath).
const plainInPath = unreserved + "!$&'()*+,=:@/"

const unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"

// checkRequest reports what is wrong with the template of a request, and takes it apart.
func (t *tool) checkRequest(f *faults) {
	if t.Request == nil {
		f.add("/request", "is required for a tool of the kind http")
		return
	}
	if !slices.Contains(methods, t.Request.Method) {
		f.addf("/request/method", "must be one of %s", strings.Join(methods, ", "))
	}
	const at = "/request/url"
	template := t.Request.URL
	// With "x" in the place of each argument it is a URL like any other.
	filled := placeholder.ReplaceAllString(template, "x")
	parsed, err := url.Parse(filled)
	if err != nil || len(template) > maxVaultPath || strings.ContainsAny(filled, "{}\\%;") || strings.ContainsFunc(template, isNoPrint) {
		f.add(at, "must be a URL such as https://api.example.com/items/{id}, with arguments only as parts of its path and in the values of its query")
		return
	}
	authority, target := strings.TrimPrefix(template, "https://"), ""
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, target = authority[:i], authority[i:]
	}
	inPath, inQuery, _ := strings.Cut(target, "?")
	d, wrong := parseDestination(destinationText(execution.Destination{Host: parsed.Hostname(), Port: portOf(parsed)}))
	r := &requestTemplate{method: t.Request.Method, to: d, named: map[string]bool{}}
	switch {
	case !strings.HasPrefix(template, "https://") || parsed.User != nil || parsed.Fragment != "":
		f.add(at, "must be https, without a user and without a fragment")
	case placeholder.MatchString(authority):
		f.add(at, "must not have an argument in its host or port")
	case wrong != "":
		f.add(at, "with its host and port "+wrong)
	case isIP(d.Host):
		f.add(at, "must name its host: nothing is connected to by an address")
	case parsed.Path != "" && path.Clean(parsed.Path) != parsed.Path:
		f.add(at, "must have a clean path: no '.', '..' or empty part, no '/' at the end")
	case strings.Trim(parsed.Path, plainInPath) != "":
		f.add(at, "must have a path of letters, digits and -._~!$&'()*+,=:@/")
	case !slices.Contains(t.Network, d):
		f.addf(at, "must name a host and port that stand in network too: %s does not", destinationText(d))
	}
	if inPath != "" && inPath != "/" {
		r.segments = strings.Split(inPath[1:], "/")
	}
	r.splitQuery(inQuery, at, f)
	t.checkNamed(r, inPath, at, f)
	t.template = r
}

func (r *requestTemplate) splitQuery(query, at string, f *faults) {
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, valued := strings.Cut(part, "=")
		if placeholder.MatchString(name) {
			f.add(at, "must not have an argument in the name of a parameter")
		}
		r.query = append(r.query, templateParameter{name, value, !valued})
	}
}

// checkNamed reports which of the arguments that stand in the template there are not, or
// might not be given.
func (t *tool) checkNamed(r *requestTemplate, inPath, at string, f *faults) {
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	_ = json.Unmarshal(t.Arguments, &schema) // what is no schema is reported as that
	for _, found := range placeholder.FindAllStringSubmatch(t.Request.URL, -1) {
		name := found[1]
		r.named[name] = true
		switch _, declared := schema.Properties[name]; {
		case !declared:
			f.addf(at, "names the argument %s, which is not in the properties of arguments", name)
		case strings.Contains(inPath, found[0]) && !slices.Contains(schema.Required, name):
			f.addf(at, "names the argument %s in its path, which has to be required in arguments", name)
		}
	}
}

// mayBe reports whether arguments could make a request that a binding is for: where the
// path has one, only what stands before it is compared.
func (r *requestTemplate) mayBe(bind execution.Binding) bool {
	path, argued := "/"+strings.Join(r.segments, "/"), false
	if at := placeholder.FindStringIndex(path); at != nil {
		path, argued = path[:at[0]], true
	}
	fits := func(pattern string) bool {
		stem, below := strings.CutSuffix(pattern, "*")
		return below && strings.HasPrefix(path, stem) || argued && strings.HasPrefix(stem, path) || pattern == path
	}
	return bind.Host == r.to.Host && bind.Port == r.to.Port &&
		(len(bind.Methods) == 0 || slices.Contains(bind.Methods, r.method)) &&
		(len(bind.Paths) == 0 || slices.ContainsFunc(bind.Paths, fits))
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// portOf is the port of a URL of https; 0 where it has one that is none.
func portOf(u *url.URL) int {
	if u.Port() == "" {
		return 443
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}
