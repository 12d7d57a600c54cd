package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// maxIdempotencyKey bounds an Idempotency-Key, in bytes.
const maxIdempotencyKey = 255

// prefersAsync reports whether the caller prefers to come back for the result
// (RFC 7240, section 4.1). Other preferences are ignored, as that says.
func prefersAsync(h http.Header) bool {
	for item := range strings.SplitSeq(strings.Join(h["Prefer"], ","), ",") {
		name, _, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
			return true
		}
	}
	return false
}

// idempotencyKeyOf returns the caller's Idempotency-Key, whose text means
// nothing to the gateway, or "" where there is none. To run a request as if a
// key that cannot be used were not there would break the very promise that the
// caller relies on.
func idempotencyKeyOf(h http.Header) (string, error) {
	values := h["Idempotency-Key"]
	if len(values) == 0 {
		return "", nil
	}
	valid := len(values) == 1 && values[0] != "" && len(values[0]) <= maxIdempotencyKey
	if valid {
		for _, c := range []byte(values[0]) {
			valid = valid && c > ' ' && c < 0x7f
		}
	}
	if !valid {
		return "", &execution.Error{
			Kind: execution.KindInvalid, Code: "idempotency_key_invalid",
			Detail: "send one Idempotency-Key of 1 to 255 visible ASCII characters, such as a UUID",
		}
	}
	return values[0], nil
}

// lastEventIDOf returns the id of the last event that the client has, or zero
// where it has none.
func lastEventIDOf(h http.Header) (uint64, error) {
	values := h["Last-Event-Id"]
	if len(values) == 0 || len(values) == 1 && values[0] == "" {
		return 0, nil
	}
	id, ok := parseEventID(values[0])
	if !ok || len(values) > 1 {
		return 0, &execution.Error{
			Kind: execution.KindInvalid, Code: "last_event_id_invalid", Detail: "Last-Event-ID must be the id of an event of this stream",
		}
	}
	return id, nil
}

// parseEventID reads an id in the one way that it is written.
func parseEventID(text string) (uint64, bool) {
	id, err := strconv.ParseUint(text, 10, 64)
	return id, err == nil && strconv.FormatUint(id, 10) == text
}
