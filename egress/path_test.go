package egress

import "testing"

func TestPathHasOneForm(t *testing.T) {
	for _, tt := range []struct{ uri, path, query, code string }{
		{"/", "/", "", ""},
		{"/a/b/", "/a/b/", "", ""},
		{"/%7Euser/%41%2d%5f%2E%2Ea", "/~user/A-_..a", "", ""},
		{"/caf%c3%a9?x=%c3%a9", "/caf%C3%A9", "x=%c3%a9", ""},
		{"/@types/a:b,c=d+e!$&'()*", "/@types/a:b,c=d+e!$&'()*", "", ""},
		{"/a%20b%3F%23", "/a%20b%3F%23", "", ""},
		{"/...", "/...", "", ""},
		{"/.well-known/x", "/.well-known/x", "", ""},
		{"HTTPS://api.test/a?b", "/a", "b", ""},
		{"https://api.test", "/", "", ""},
		{"https://api.test?b=/c", "/", "b=/c", ""},
		{"/a?b/../c;d\\e?f", "/a", "b/../c;d\\e?f", ""}, // a query has no form

		{"", "", "", codePathInvalid},
		{"*", "", "", codePathInvalid},
		{"a/b", "", "", codePathInvalid},
		{"/a b", "", "", codePathInvalid},
		{"/caf\xc3\xa9", "", "", codePathInvalid},
		{"/a%", "", "", codePathInvalid},
		{"/a%4", "", "", codePathInvalid},
		{"/a%4g", "", "", codePathInvalid},
		{"/a[b]", "", "", codePathInvalid},
		{"/a\"b", "", "", codePathInvalid},
		{"/a?b c", "", "", codeQueryInvalid},
		{"/a?b\x00", "", "", codeQueryInvalid},
		{"/a%25", "", "", codePathAmbiguous},
		{"/%2E%2e", "", "", codePathAmbiguous},
		{"/a/..", "", "", codePathAmbiguous},
		{"/a//", "", "", codePathAmbiguous},
		{"/a%2fb", "", "", codePathAmbiguous},
		{"/a%7f", "", "", codePathAmbiguous},
	} {
		got, code := readTarget(tt.uri, false)
		if got.path != tt.path || got.query != tt.query || code != tt.code {
			t.Errorf("%q: %+v, %q; want %q, %q, %q", tt.uri, got, code, tt.path, tt.query, tt.code)
		}
	}
}

// Where nothing is decided by paths, a segment may have an escaped slash, as those of
// npm's packages have.
func TestEscapedSlashWhereNothingLooksAtPaths(t *testing.T) {
	for _, tt := range []struct{ uri, path, code string }{
		{"/@types%2fnode", "/@types%2Fnode", ""},
		{"/a%2f..", "", codePathAmbiguous},
		{"/..%2Fa", "", codePathAmbiguous},
		{"/a%2F%2fb", "", codePathAmbiguous},
		{"/a/%2fb", "", codePathAmbiguous},
		{"/a%5cb", "", codePathAmbiguous},
	} {
		if got, code := readTarget(tt.uri, true); got.path != tt.path || code != tt.code {
			t.Errorf("%q: %q, %q; want %q, %q", tt.uri, got.path, code, tt.path, tt.code)
		}
	}
}

func TestPatternsOfPaths(t *testing.T) {
	for _, tt := range []struct {
		patterns []string
		path     string
		want     bool
	}{
		{nil, "/x", true},
		{[]string{"/x"}, "/x", true},
		{[]string{"/x"}, "/x/", false},
		{[]string{"/x"}, "/xy", false},
		{[]string{"/x/*"}, "/x/", true},
		{[]string{"/x/*"}, "/x/y/z", true},
		{[]string{"/x/*"}, "/x", false},
		{[]string{"/x/*"}, "/xy", false},
		{[]string{"/x*"}, "/xy", false}, // no pattern
		{[]string{"/*"}, "/", true},
		{[]string{""}, "/", false},
		{[]string{"/a", "/b/*"}, "/b/c", true},
	} {
		if got := matchPath(tt.patterns, tt.path); got != tt.want {
			t.Errorf("%q for %q: %v", tt.patterns, tt.path, got)
		}
	}
}
