package egress

import (
	"net/url"
	"strings"
)

// Codes of targets.
const (
	codePathInvalid   = "path_invalid"
	codePathAmbiguous = "path_ambiguous"
	codeQueryInvalid  = "query_invalid"
)

const unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"

// target is the path and the query of a request, in the form that is compared and
// forwarded.
type target struct {
	path  string // escaped
	query string // as the program wrote it, without "?"
	bare  bool   // there is "?" with nothing behind it
}

// readTarget reads the target of a request: that of HTTP/1 in its origin or absolute
// form, or the path of HTTP/2.
//
// The path has one form (RFC 3986, 6.2.2): what need not be escaped is not, and hex
// digits are upper case. A path that some server reads as another one is refused:
// with ".", ".." or empty segments, ";" or "\", whichever way they are written, an
// escaped control or "%", and, unless slashes, an escaped "/".
func readTarget(uri string, slashes bool) (target, string) {
	for _, scheme := range []string{"http://", "https://"} {
		if len(uri) >= len(scheme) && strings.EqualFold(uri[:len(scheme)], scheme) {
			uri = uri[len(scheme):]
			if at := strings.IndexAny(uri, "/?"); at >= 0 {
				uri = uri[at:]
			} else {
				uri = "/"
			}
			if uri[0] == '?' {
				uri = "/" + uri
			}
			break
		}
	}
	path, query, asked := strings.Cut(uri, "?")
	for _, c := range []byte(query) {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return target{}, codeQueryInvalid
		}
	}
	path, code := normalisePath(path, slashes)
	if code != "" {
		return target{}, code
	}
	return target{path, query, asked && query == ""}, ""
}

func normalisePath(path string, slashes bool) (string, string) {
	if !strings.HasPrefix(path, "/") || len(path) > maxHead {
		return "", codePathInvalid
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == ';' || c == '\\':
			return "", codePathAmbiguous
		case c == '%':
			escaped, ok := unescape(path[i:])
			if !ok {
				return "", codePathInvalid
			}
			switch {
			case escaped < ' ' || escaped == 0x7f || strings.IndexByte(`;\%`, escaped) >= 0 || escaped == '/' && !slashes:
				return "", codePathAmbiguous
			case strings.IndexByte(unreserved, escaped) >= 0:
				b.WriteByte(escaped)
			default:
				b.WriteString(strings.ToUpper(path[i : i+3]))
			}
			i += 2
		case c != '/' && strings.IndexByte(unreserved+"!$&'()*+,=:@", c) < 0:
			return "", codePathInvalid
		default:
			b.WriteByte(c)
		}
	}
	path = b.String()
	segments := strings.Split(path, "/")[1:]
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return "", codePathAmbiguous
		}
		if slashes && strings.Contains(s, "%2F") {
			for _, part := range strings.Split(s, "%2F") {
				if part == "." || part == ".." || part == "" {
					return "", codePathAmbiguous
				}
			}
		}
	}
	// What is compared is what net/http will write.
	if plain, err := url.PathUnescape(path); err != nil || (&url.URL{Path: plain, RawPath: path}).EscapedPath() != path {
		return "", codePathInvalid
	}
	return path, ""
}

// unescape returns the byte that s begins with, escaped.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, low := strings.IndexByte("0123456789abcdef", s[1]|0x20), strings.IndexByte("0123456789abcdef", s[2]|0x20)
	if s[1] < '0' || s[2] < '0' || high < 0 || low < 0 {
		return 0, false
	}
	return byte(high<<4 | low), true
}

// matchPath reports whether one of patterns is for path. One that ends in "/*" is for
// all below; none at all: any path.
func matchPath(patterns []string, path string) bool {
	for _, p := range patterns {
		if p == path || p == "*" || strings.HasSuffix(p, "/*") && strings.HasPrefix(path, p[:len(p)-1]) {
			return true
		}
	}
	return len(patterns) == 0
}
