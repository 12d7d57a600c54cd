package gateway

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// problemType, followed by a kind, is the `type` of a problem: a URI that stays
// the same and need not be fetched (RFC 9457, section 3.1.1).
const problemType = "https://execgate.dev/problems/"

// Kinds that only HTTP has.
const (
	kindMethodNotAllowed execution.Kind = "method_not_allowed"
	kindNotAcceptable    execution.Kind = "not_acceptable"
	kindUnsupportedMedia execution.Kind = "unsupported_media_type"
	kindUnprocessable    execution.Kind = "unprocessable"
)

// problems is the one table from kind to status. A kind that is not in it is
// internal.
var problems = map[execution.Kind]struct {
	status     int
	title      string
	retryAfter time.Duration // where the error has none of its own
}{
	execution.KindInvalid:          {http.StatusBadRequest, "The request is not valid", 0},
	execution.KindTooLarge:         {http.StatusRequestEntityTooLarge, "The request is too large", 0},
	execution.KindUnauthenticated:  {http.StatusUnauthorized, "The caller is not authenticated", 0},
	execution.KindDenied:           {http.StatusForbidden, "The request is denied", 0},
	execution.KindApprovalRequired: {http.StatusAccepted, "The request awaits approval", 0},
	execution.KindNotFound:         {http.StatusNotFound, "There is no such thing", 0},
	execution.KindGone:             {http.StatusGone, "It is no longer there", 0},
	execution.KindConflict:         {http.StatusConflict, "The request conflicts with the present state", 0},
	execution.KindSaturated:        {http.StatusTooManyRequests, "The gateway is saturated", time.Second},
	execution.KindUnavailable:      {http.StatusServiceUnavailable, "The gateway cannot do this now", 5 * time.Second},
	execution.KindInternal:         {http.StatusInternalServerError, "The gateway failed", 0},
	kindMethodNotAllowed:           {http.StatusMethodNotAllowed, "The method is not allowed here", 0},
	kindNotAcceptable:              {http.StatusNotAcceptable, "The answer cannot be given in that form", 0},
	kindUnsupportedMedia:           {http.StatusUnsupportedMediaType, "The body has another form than this takes", 0},
	kindUnprocessable:              {http.StatusUnprocessableEntity, "The request contradicts an earlier one", 0},
}

// problem is an RFC 9457 problem document, with this API's own members.
type problem struct {
	Type         string                 `json:"type"`
	Title        string                 `json:"title"`
	Status       int                    `json:"status"`
	Detail       string                 `json:"detail,omitempty"`
	Instance     string                 `json:"instance,omitempty"` // the request's id; none in what is remembered
	Code         string                 `json:"code,omitempty"`
	Execution    string                 `json:"execution,omitempty"` // its id, where one was decided
	Reasons      []execution.Reason     `json:"reasons,omitempty"`
	Errors       []execution.FieldError `json:"errors,omitempty"`
	RetryAfterMS int64                  `json:"retry_after_ms,omitempty"`
	Checks       []check                `json:"checks,omitempty"` // of /readyz
}

// problemOf returns what of err the caller may see. Of an internal error that is
// nothing but its existence, and of any other its Err stays here.
func problemOf(err error, requestID, executionID string) problem {
	kind := execution.KindOf(err)
	entry, ok := problems[kind]
	if !ok {
		kind = execution.KindInternal
		entry = problems[kind]
	}
	p := problem{
		Type: problemType + string(kind), Title: entry.title, Status: entry.status,
		Instance: requestID, Execution: executionID,
	}
	if kind == execution.KindInternal {
		return p
	}
	e, _ := errors.AsType[*execution.Error](err) // KindOf found it
	p.Detail, p.Code, p.Reasons, p.Errors = e.Detail, e.Code, e.Reasons, e.Fields
	after := entry.retryAfter
	if e.RetryAfter > 0 {
		after = e.RetryAfter
	}
	p.RetryAfterMS = after.Milliseconds()
	return p
}

// writeProblem answers with p.
func (x *exchange) writeProblem(p problem) {
	h := x.gin.Writer.Header()
	if p.RetryAfterMS > 0 {
		seconds := math.Ceil(float64(p.RetryAfterMS) / 1000) // the header has whole seconds only
		h.Set("Retry-After", strconv.FormatFloat(seconds, 'f', 0, 64))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="execgate"`) // RFC 6750, section 3
	}
	body, err := json.Marshal(p)
	if err != nil { // nothing in it can fail to be encoded
		body = []byte(`{"type":"` + problemType + `internal","status":500}`)
		p.Status = http.StatusInternalServerError
	}
	x.write(p.Status, "application/problem+json", body)
}

// kindOfProblem is the kind that p was made from.
func kindOfProblem(p problem) execution.Kind {
	return execution.Kind(strings.TrimPrefix(p.Type, problemType))
}
