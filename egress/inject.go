package egress

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// fixed are headers that no binding sets: they say how the message is read.
var fixed = append(slices.Clone(hops), "Accept-Encoding", "Range", "If-Range", "Content-Encoding", "Content-Type")

// inject sets what is bound on a request, in place of whatever the program has put
// there. values are what must not come back.
func inject(ctx context.Context, out *http.Request, bind execution.Binding, fields map[string]execution.Secret) (values []string, code string) {
	if bind.Mode == "sigv4" {
		return sign(ctx, out, bind, fields, time.Now())
	}
	if bind.Mode == "basic" {
		username, password := fields["username"].Reveal(), fields["password"].Reveal()
		if !sendable(username) || !sendable(password) || strings.Contains(username, ":") { // RFC 7617, 2
			return nil, codeBadCredential
		}
		pair := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
		setHeader(out.Header, "Authorization", "Basic "+pair)
		return []string{password, pair}, ""
	}
	value := field(fields)
	if !sendable(value) {
		return nil, codeBadCredential
	}
	switch bind.Mode {
	case "bearer":
		setHeader(out.Header, "Authorization", "Bearer "+value)
	case "header":
		if !isToken(bind.Name) || slices.ContainsFunc(fixed, func(name string) bool { return isForm(bind.Name, name) }) {
			return nil, codeBindingInvalid
		}
		setHeader(out.Header, bind.Name, value)
	case "query":
		if bind.Name == "" {
			return nil, codeBindingInvalid
		}
		query, code := setParameter(out.URL.RawQuery, bind.Name, value)
		if code != "" {
			return nil, code
		}
		out.URL.RawQuery, out.URL.ForceQuery = query, false
	default:
		return nil, codeBindingInvalid
	}
	return []string{value}, ""
}

// setHeader deletes every form of a header and sets it.
func setHeader(h http.Header, name, value string) {
	removeForms(h, name)
	h.Set(name, value)
}

// setParameter deletes every form of a parameter from a query and appends it. A query
// of which servers read the parameters differently is refused.
func setParameter(query, name, value string) (string, string) {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		escaped, _, _ := strings.Cut(part, "=")
		got, err := url.QueryUnescape(escaped)
		if err != nil || strings.Contains(part, ";") {
			return "", codeQueryInvalid
		}
		if part != "" && !isParameter(got, name) {
			kept = append(kept, part)
		}
	}
	return strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value)), "&"), ""
}

// isParameter reports whether a server may take the parameter got for name: in any
// case, with brackets or behind white space or a NUL as PHP and others drop them,
// and with "_" for what PHP makes one.
func isParameter(got, name string) bool {
	plain := func(s string) string {
		s, _, _ = strings.Cut(strings.TrimLeft(s, " \t\r\n"), "[")
		s, _, _ = strings.Cut(s, "\x00")
		return strings.NewReplacer(".", "_", " ", "_", "-", "_").Replace(strings.TrimSpace(s))
	}
	return strings.EqualFold(plain(got), plain(name)) || strings.EqualFold(plain(unescapeAll(got)), plain(name))
}

// unescapeAll undoes what was escaped more than once.
func unescapeAll(s string) string {
	for range 3 {
		plain, err := url.QueryUnescape(s)
		if err != nil || plain == s {
			break
		}
		s = plain
	}
	return s
}
