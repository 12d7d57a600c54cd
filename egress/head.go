package egress

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The bounds of one request's head (HTTP/1), in bytes and fields.
const (
	maxHead   = 64 << 10
	maxFields = 200
)

// Codes of heads that have more than one reading, or none.
const (
	codeLineEnd        = "line_end_invalid"
	codeFolded         = "header_folded"
	codeHeaderInvalid  = "header_invalid"
	codeHeadTooLarge   = "header_too_large"
	codeProtocol       = "protocol_refused"
	codeHostRepeated   = "host_repeated"
	codeHostMissing    = "host_missing"
	codeHostMismatch   = "host_mismatch"
	codeFraming        = "framing_ambiguous"
	codeRequestInvalid = "request_invalid"
)

// refusedHeader names the code of a head that was refused, to the handler. No head
// that has it passes.
const refusedHeader = "Execgate-Refused"

// framing says how long the body of a request is.
type framing struct {
	chunked bool
	length  int64 // where it is not chunked
}

// checkHead reads the head of a request of HTTP/1 strictly (RFC 9112): what another
// reader might take otherwise has a code. head ends with its empty line, and has no
// LF without CR.
func checkHead(head []byte) (framing, string) {
	lines := bytes.Split(bytes.TrimSuffix(head, []byte("\r\n\r\n")), []byte("\r\n"))
	if len(lines) > maxFields+1 {
		return framing{}, codeHeadTooLarge
	}
	method, target, minor, code := checkStart(string(lines[0]))
	if code != "" {
		return framing{}, code
	}
	var hosts, lengths, encodings []string
	for _, line := range lines[1:] {
		name, value, code := checkField(string(line))
		switch {
		case code != "":
			return framing{}, code
		case strings.EqualFold(name, "Host"):
			hosts = append(hosts, value)
		case strings.EqualFold(name, "Content-Length"):
			lengths = append(lengths, value)
		case strings.EqualFold(name, "Transfer-Encoding"):
			encodings = append(encodings, value)
		case strings.EqualFold(name, refusedHeader), strings.EqualFold(name, "Expect") && !strings.EqualFold(value, "100-continue"):
			return framing{}, codeHeaderInvalid
		}
	}
	switch {
	case len(hosts) > 1:
		return framing{}, codeHostRepeated
	case len(hosts) == 0 || hosts[0] == "":
		return framing{}, codeHostMissing
	case method != http.MethodConnect && !sameAuthority(target, hosts[0]) || !isAuthority(hosts[0]):
		return framing{}, codeHostMismatch
	}
	if _, err := url.ParseRequestURI(target); err != nil && method != http.MethodConnect && target != "*" {
		return framing{}, codePathInvalid // net/http would answer that itself
	}
	return frame(lengths, encodings, minor)
}

func checkStart(line string) (method, target string, minor byte, code string) {
	parts := strings.Split(line, " ")
	switch {
	case len(parts) != 3 || !isToken(parts[0]) || parts[1] == "":
		return "", "", 0, codeRequestInvalid
	case parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0":
		return "", "", 0, codeProtocol
	}
	for _, c := range []byte(parts[1]) {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return "", "", 0, codeRequestInvalid
		}
	}
	return parts[0], parts[1], parts[2][7], ""
}

func checkField(line string) (name, value, code string) {
	if line != "" && (line[0] == ' ' || line[0] == '\t') {
		return "", "", codeFolded
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) || !validValue(value) {
		return "", "", codeHeaderInvalid
	}
	return name, strings.Trim(value, " \t"), ""
}

// sameAuthority reports whether a target in absolute form names the same as Host.
func sameAuthority(target, host string) bool {
	if target[0] == '/' || target == "*" {
		return true
	}
	u, err := url.Parse(target)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && u.Opaque == "" && strings.EqualFold(u.Host, host)
}

// isAuthority reports whether a Host names anything that can be connected to by name.
func isAuthority(host string) bool {
	name, port, _ := strings.Cut(host, ":")
	_, err := normaliseHost(name)
	return err == nil && strings.Trim(port, "0123456789") == ""
}

// frame tells the one length of a body (RFC 9112, 6.3).
func frame(lengths, encodings []string, minor byte) (framing, string) {
	switch {
	case len(encodings) > 0:
		if len(encodings) > 1 || len(lengths) > 0 || minor == '0' || !strings.EqualFold(encodings[0], "chunked") {
			return framing{}, codeFraming
		}
		return framing{chunked: true}, ""
	case len(lengths) == 0:
		return framing{}, ""
	case len(lengths) > 1 || strings.Trim(lengths[0], "0123456789") != "":
		return framing{}, codeFraming
	}
	n, err := strconv.ParseInt(lengths[0], 10, 64)
	if err != nil {
		return framing{}, codeFraming
	}
	return framing{length: n}, ""
}

// isToken reports whether s is a token of RFC 9110, 5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// validValue reports whether s can be a field's value: no control but the tab.
func validValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
