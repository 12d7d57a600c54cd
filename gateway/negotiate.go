package gateway

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// The forms that an answer can have. A problem is always
// application/problem+json, whatever was asked for.
const (
	mediaJSON   = "application/json"
	mediaEvents = "text/event-stream"
	mediaAny    = "*/*"
)

// negotiate picks the form among offers that the caller likes best, the first of
// those alike (RFC 9110, section 12.5.1). It refuses a caller that would take
// none of them: better before anything ran than after.
func negotiate(h http.Header, offers ...string) (string, error) {
	accept := strings.Join(h["Accept"], ",")
	if strings.TrimSpace(accept) == "" {
		return offers[0], nil
	}
	best, highest := "", 0.0
	for _, offer := range offers {
		if q := qualityOf(accept, offer); q > highest {
			best, highest = offer, q
		}
	}
	if best == "" {
		return "", &execution.Error{Kind: kindNotAcceptable, Detail: "the answer is " + strings.Join(offers, " or ") + "; accept that"}
	}
	return best, nil
}

// qualityOf is how much accept likes media. The most precise range decides; of
// several alike, the best.
func qualityOf(accept, media string) float64 {
	family, _, _ := strings.Cut(media, "/")
	best, quality := -1, 0.0
	for item := range strings.SplitSeq(accept, ",") {
		asked, parameters, err := mime.ParseMediaType(item)
		if err != nil {
			continue // what cannot be read asks for nothing
		}
		precise := -1
		switch asked {
		case media:
			precise = 2
		case family + "/*":
			precise = 1
		case "*/*":
			precise = 0
		}
		if precise < best || precise < 0 {
			continue
		}
		q := 1.0
		if text, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		if precise > best {
			best, quality = precise, q
		} else {
			quality = max(quality, q)
		}
	}
	return quality
}

// checkContentType takes only JSON, in UTF-8, as it is.
func checkContentType(h http.Header) error {
	wrong := &execution.Error{Kind: kindUnsupportedMedia, Detail: "send Content-Type: application/json, in UTF-8 and without a Content-Encoding"}
	values := h["Content-Type"]
	if len(values) != 1 {
		return wrong
	}
	media, parameters, err := mime.ParseMediaType(values[0])
	if err != nil || media != "application/json" {
		return wrong
	}
	if charset, ok := parameters["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return wrong
	}
	for _, encoding := range h["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return wrong
		}
	}
	return nil
}

// bearerOf takes the credential out of the one Authorization header (RFC 6750,
// section 2.1). Two of them, or another scheme, are malformed: which one counted
// would be a guess.
func bearerOf(h http.Header) (execution.Secret, error) {
	values := h["Authorization"]
	if len(values) == 0 {
		return execution.Secret{}, &execution.Error{
			Kind: execution.KindUnauthenticated, Code: "missing", Detail: "send Authorization: Bearer and an API key",
		}
	}
	scheme, credential, found := strings.Cut(values[0], " ")
	if len(values) > 1 || !found || !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return execution.Secret{}, &execution.Error{
			Kind: execution.KindUnauthenticated, Code: "malformed", Detail: "send one header Authorization: Bearer and an API key",
		}
	}
	return execution.NewSecret(credential), nil
}
