package egress

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// hops are the headers that are of one connection (RFC 9110, 7.6.1), or of what the
// broker settles itself.
var hops = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Host", "Content-Length", "Expect",
}

// isForm reports whether a name is one that servers take for name: in any case, and
// with another mark for "-". CGI has "_" there, and some servers make one of whatever is
// no letter or digit.
func isForm(got, name string) bool {
	if len(got) != len(name) {
		return false // it is asked of each header with each name
	}
	for i := range len(got) {
		if plainIn(got[i]) != plainIn(name[i]) {
			return false
		}
	}
	return true
}

// plainIn is a byte of a header's name as isForm compares it.
func plainIn(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c - 'A' + 'a'
	case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
		return c
	}
	return '-'
}

func hasForm(h http.Header, name string) bool {
	for got := range h {
		if isForm(got, name) {
			return true
		}
	}
	return false
}

// removeForms deletes every form of a header.
func removeForms(h http.Header, name string) {
	for got := range h {
		if isForm(got, name) {
			delete(h, got)
		}
	}
}

// connectionTokens are the names in Connection.
func connectionTokens(h http.Header) (names []string) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// named reports whether Connection names a header.
func named(h http.Header, name string) bool {
	return slices.ContainsFunc(connectionTokens(h), func(got string) bool { return strings.EqualFold(got, name) })
}

// removeHops deletes what is of one connection.
func removeHops(h http.Header) {
	for _, name := range append(connectionTokens(h), hops...) {
		removeForms(h, name)
	}
}

// requestHeader returns the headers of a request as they are forwarded. Trailers of
// requests are not.
func requestHeader(r *http.Request, socket bool) http.Header {
	h := r.Header.Clone()
	trailers := slices.ContainsFunc(h["Te"], func(v string) bool { return strings.EqualFold(strings.TrimSpace(v), "trailers") })
	removeHops(h)
	if trailers {
		h.Set("Te", "trailers")
	}
	if socket {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
		removeForms(h, "Sec-WebSocket-Extensions") // what is compressed cannot be searched
	}
	setHeader(h, "Accept-Encoding", "identity")
	if h.Values("User-Agent") == nil {
		h["User-Agent"] = []string{""} // net/http would add its own
	}
	return h
}

// size is about what a head takes on the wire, in bytes.
func size(h http.Header, first ...string) (n int64) {
	for _, part := range first {
		n += int64(len(part)) + 2
	}
	for name, values := range h {
		for _, value := range values {
			n += int64(len(name) + len(value) + 4)
		}
	}
	return n
}
