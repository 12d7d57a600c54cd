package execution

import (
	"errors"
	"time"
)

// Kind is the class of an Error; the gateway turns each into one HTTP status.
type Kind string

// The kinds. Errors without a kind are internal.
const (
	KindInvalid          Kind = "invalid"
	KindTooLarge         Kind = "too_large"
	KindUnauthenticated  Kind = "unauthenticated"
	KindDenied           Kind = "denied"
	KindApprovalRequired Kind = "approval_required"
	KindNotFound         Kind = "not_found"
	KindGone             Kind = "gone"
	KindConflict         Kind = "conflict"
	KindSaturated        Kind = "saturated"
	KindUnavailable      Kind = "unavailable"
	KindInternal         Kind = "internal"
)

// Error is the one error type that crosses packages. Detail and Fields may be
// shown to the caller and say what to do next; Err never leaves the process.
type Error struct {
	Kind    Kind
	Code    string // stable name of this very case, such as "audit_unavailable"; may be empty
	Detail  string
	Reasons []Reason
	Fields  []FieldError
	// RetryAfter is when it may be worth trying again; zero where it is not known.
	RetryAfter time.Duration
	Err        error
}

// FieldError names one part of a request that is wrong.
type FieldError struct {
	Pointer string `json:"pointer"` // RFC 6901; empty for the whole document
	Detail  string `json:"detail"`
}

// Error implements error. It is for logs, so it includes Err.
func (e *Error) Error() string {
	text := string(e.Kind)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	for _, f := range e.Fields {
		text += "; " + f.Pointer + ": " + f.Detail
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first Error in err's chain, and KindInternal
// where there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}
