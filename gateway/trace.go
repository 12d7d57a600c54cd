package gateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// requestIDOf returns the caller's X-Request-Id where it is exactly one value of
// 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', and else a new one. What
// else a caller sends would end up in logs and records.
func requestIDOf(h http.Header, now time.Time) string {
	if values := h["X-Request-Id"]; len(values) == 1 && validRequestID(values[0]) {
		return values[0]
	}
	return execution.NewID("rq_", now)
}

func validRequestID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// traceIDOf returns the trace id of the header traceparent, or "" where there is
// none, more than one, or one that is malformed: the specification says to go on
// as if it were not there.
func traceIDOf(h http.Header) string {
	values := h["Traceparent"]
	if len(values) != 1 {
		return ""
	}
	id, _ := parseTraceparent(values[0])
	return id
}

// parseTraceparent reads a traceparent as W3C Trace Context says (section 3.2):
// version-traceid-parentid-flags in lower-case hex, neither id all zeros, version
// not ff; a version above 00 may have more after a further dash.
func parseTraceparent(text string) (traceID string, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(text) < length || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return "", false
	}
	version, trace, parent, flags := text[:2], text[3:35], text[36:52], text[53:55]
	for _, part := range []string{version, trace, parent, flags} {
		if !isLowerHex(part) {
			return "", false
		}
	}
	switch {
	case version == "ff",
		version == "00" && len(text) != length,
		len(text) > length && text[length] != '-',
		strings.Trim(trace, "0") == "",
		strings.Trim(parent, "0") == "":
		return "", false
	}
	return trace, true
}

func isLowerHex(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
