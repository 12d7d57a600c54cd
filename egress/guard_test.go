package egress

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// text is a connection from which a text is read, some bytes at a time.
type text struct {
	net.Conn
	left string
	most int
}

func (c *text) Read(p []byte) (int, error) {
	if c.left == "" {
		return 0, io.EOF
	}
	n := copy(p, c.left[:min(c.most, len(c.left))])
	c.left = c.left[n:]
	return n, nil
}

// A guard changes nothing of what has one reading, however it comes.
func TestGuardPassesOnWhatHasOneReading(t *testing.T) {
	whole := "GET /a HTTP/1.1\r\nHost: api.test\r\n\r\n" +
		"POST /b?c HTTP/1.1\r\nhost: API.test:443\r\nContent-Length: 7\r\n\r\nbody\n\r\n" +
		"POST http://api.test/d HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-A: b\r\n\r\n" +
		"OPTIONS * HTTP/1.0\r\nHost: api.test\r\n\r\n"
	for most := 1; most < 200; most += 7 {
		got, err := io.ReadAll(&guard{Conn: &text{left: whole, most: most}})
		if string(got) != whole || err != nil {
			t.Errorf("%d bytes at a time: %q, %v", most, got, err)
		}
	}
}

// FuzzRequest holds what the broker reads of bytes that a program sends against what
// net/http reads of the same bytes, and against the invariants of a target.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /v1/x?y=z HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"POST https://api.test/a%2Fb%7e HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n",
		"GET /../%2e%2e//;\\%5c HTTP/1.1\r\nHost: a\r\nHost: b\r\nUpgrade: h2c\r\n\r\n",
		"GET / HTTP/1.1\nHost: api.test\n folded\n\n",
	} {
		f.Add(seed, uint8(3))
		f.Add(seed, uint8(255))
	}
	d := destination{host: "api.test", port: 443}
	f.Fuzz(func(t *testing.T, sent string, most uint8) {
		passed, err := io.ReadAll(&guard{Conn: &text{left: sent, most: max(int(most), 1)}})
		if err != nil && !errors.Is(err, errChunks) {
			t.Fatalf("of %q: %v", sent, err)
		}
		refused := strings.Contains(string(passed), refusedHeader+": ")
		if !refused && !strings.HasPrefix(sent, string(passed)) {
			t.Fatalf("%q has become %q", sent, passed)
		}
		reader := bufio.NewReader(strings.NewReader(string(passed)))
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			if r.Header.Get(refusedHeader) == "" {
				holdToInvariants(t, r, d)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
		}
	})
}

// holdToInvariants fails where a request that would leave has another reading.
func holdToInvariants(t *testing.T, r *http.Request, d destination) {
	t.Helper()
	for _, slashes := range []bool{false, true} {
		q, code := ask(r, d, true, slashes)
		if code != "" {
			continue
		}
		if host, _, _ := strings.Cut(strings.ToLower(r.Host), ":"); strings.TrimSuffix(host, ".") != d.host {
			if name, err := normaliseHost(host); err != nil || name != d.host {
				t.Fatalf("a request for %q would go to %s", r.Host, d.host)
			}
		}
		again, code := readTarget(q.path, slashes)
		if code != "" || again.path != q.path {
			t.Fatalf("%q becomes %q, and that %q (%s)", r.RequestURI, q.path, again.path, code)
		}
		plain, err := url.PathUnescape(q.path)
		if err != nil || strings.Contains(plain, "/../") || strings.HasSuffix(plain, "/..") || strings.Contains(plain, "//") || strings.ContainsAny(plain, "\\;\x00\r\n") {
			t.Fatalf("%q would leave as %q", r.RequestURI, q.path)
		}
		if r.TransferEncoding != nil && r.Header.Get("Content-Length") != "" {
			t.Fatalf("a body has two lengths: %v", r.Header)
		}
	}
}
