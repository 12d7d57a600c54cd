package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/execgate/execgate/execution"
)

// The codes of what goes wrong with Vault.
const (
	CodeUnavailable = "vault_unavailable"
	CodeSealed      = "vault_sealed"
	CodeRateLimited = "vault_rate_limited"
	CodeRefused     = "vault_refused" // by its configuration, or the gateway's
)

// When to try again, where Vault does not say so.
const (
	retryUnavailable = 5 * time.Second
	retrySealed      = 30 * time.Second // somebody has to unseal it
	retryRateLimited = time.Second
	maxRetryAfter    = 5 * time.Minute
)

// refusal is an answer of Vault that is none of 200 to 299. The answer's text is
// not kept: it may repeat what was sent.
type refusal struct {
	status     int
	retryAfter time.Duration
	sealed     bool
	noToken    bool // there is no token of that accessor
}

func (r *refusal) Error() string { return fmt.Sprintf("vault answers %d", r.status) }

// refusalOf keeps of the answer what matters.
func refusalOf(status int, header http.Header, body []byte) *refusal {
	r := &refusal{status: status}
	text := string(body)
	// The texts are Vault's own (vault/token_store.go and consts.ErrSealed).
	r.sealed = status == http.StatusServiceUnavailable && strings.Contains(text, "Vault is sealed")
	r.noToken = (status == http.StatusBadRequest || status == http.StatusForbidden) &&
		(strings.Contains(text, "invalid accessor") || strings.Contains(text, "token not found"))
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		r.retryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	return r
}

// unreachable is a call that got no answer. Errors of net/http are not kept: they
// may hold the URL, and what was read.
type unreachable struct {
	cause  string
	unsent bool // nothing of the call reached Vault
}

func (u *unreachable) Error() string { return "vault does not answer: " + u.cause }

func unreachableBy(err error) *unreachable {
	var network net.Error
	var dns *net.DNSError
	var operation *net.OpError
	var certificate *tls.CertificateVerificationError
	dialled := errors.As(err, &operation) && operation.Op == "dial"
	switch {
	case errors.Is(err, context.Canceled):
		return &unreachable{cause: "the call was given up"}
	case errors.As(err, &dns):
		return &unreachable{"its name does not resolve", true}
	case errors.As(err, &certificate):
		return &unreachable{fmt.Sprintf("its certificate is not trusted: %v", certificate.Err), true}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &unreachable{"the connection is refused", true}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return &unreachable{"it takes too long", dialled}
	case dialled:
		return &unreachable{"no connection is made", true}
	}
	return &unreachable{cause: "the connection broke"}
}

// statusOf is that of Vault's answer to the call itself, and 0 where there was none:
// an answer to a login that the call needed first is an execution.Error by then.
func statusOf(err error) int {
	if _, ours := errors.AsType[*execution.Error](err); ours {
		return 0
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// mayHaveHappened reports whether a call that failed may have had its effect. An
// answer of 500 may: Vault gives it, too, when it cannot log that it has done it.
func mayHaveHappened(err error) bool {
	if _, ours := errors.AsType[*execution.Error](err); ours {
		return false // of the login before
	}
	if _, open := errors.AsType[*openError](err); open {
		return false
	}
	if u, ok := errors.AsType[*unreachable](err); ok {
		return !u.unsent
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status >= http.StatusInternalServerError && !r.sealed
	}
	return true
}

// cleaned is err without what the library adds to it, such as URLs and bodies.
func cleaned(err error) error {
	if e, ok := errors.AsType[*execution.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*openError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*refusal](err); ok {
		return e
	}
	if e, ok := errors.AsType[*unreachable](err); ok {
		return e
	}
	return unreachableBy(err)
}

// fault is err as callers may see it. doing says what was being done; fix is what
// the operator has to mend where Vault refuses that.
func fault(doing, fix string, err error) *execution.Error {
	err = cleaned(err)
	if e, ok := err.(*execution.Error); ok {
		return e
	}
	e := &execution.Error{
		Kind: execution.KindUnavailable, Code: CodeUnavailable, RetryAfter: retryUnavailable,
		Detail: "Vault does not answer, and no credential can be lent without it; try again later",
		Err:    fmt.Errorf("%s: %w", doing, err),
	}
	if open, ok := err.(*openError); ok {
		e.RetryAfter = open.wait
	}
	r, ok := err.(*refusal)
	switch {
	case !ok:
	case r.sealed:
		e.Code, e.RetryAfter, e.Detail = CodeSealed, retrySealed, "Vault is sealed: the operator has to unseal it; try again later"
	case r.status == http.StatusTooManyRequests:
		e.Code, e.RetryAfter, e.Detail = CodeRateLimited, retryRateLimited, "Vault limits the rate of calls; try again later"
	case r.status >= http.StatusInternalServerError:
		e.Detail = "Vault has a fault of its own; if it answers so to everything, its audit device may be full; try again later"
	case r.status < http.StatusBadRequest:
		e.Code, e.RetryAfter, e.Detail = CodeRefused, 0, "Vault answers with a redirect, which is not followed: the operator has to configure the address that answers"
	default:
		e.Code, e.RetryAfter, e.Detail = CodeRefused, 0, fmt.Sprintf("Vault refuses to %s (%d): the operator has to %s", doing, r.status, fix)
	}
	if ok && r.retryAfter > 0 && e.Code != CodeRefused {
		e.RetryAfter = r.retryAfter
	}
	return e
}

// codeOf names a fault in a record.
func codeOf(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Code != "" {
		return e.Code
	}
	return CodeUnavailable
}
