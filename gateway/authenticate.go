package gateway

import (
	"errors"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// The bound on records of failed authentications: 60 at once and one a second
// after that, over all callers, at most 86,460 a day. Anybody can cause these,
// and an unbounded number would let a stranger fill the disk and hide one
// failure among millions. Those above it still get their line in the request
// log, and their number is logged with the next one that is recorded.
const (
	failureBurst    = 60
	failureInterval = time.Second
)

// authenticate proves the caller by the Authorization header, and by nothing
// else: a Principal never comes from a body (Invariant 6).
func (g *Gateway) authenticate(x *exchange) (execution.Principal, error) {
	credential, err := bearerOf(x.gin.Request.Header)
	if err == nil {
		var principal execution.Principal
		principal, err = g.config.Authenticator.Authenticate(x.ctx(), credential)
		if err == nil && (principal.Subject == "" || principal.Tenant == "") {
			err = internal("authenticate", errors.New("the authenticator proved nobody"))
		}
		if err == nil {
			return principal, nil
		}
	}
	if execution.KindOf(err) == execution.KindUnauthenticated {
		g.recordFailure(x, err)
	}
	return execution.Principal{}, err
}

// recordFailure records a failed authentication. The caller is refused anyway,
// so a log that cannot be written changes nothing for them.
func (g *Gateway) recordFailure(x *exchange, cause error) {
	ok, suppressed := g.failures.take(time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		g.config.Logger.WarnContext(x.ctx(), "authentication failures not recorded", "suppressed", suppressed)
	}
	body := &execution.AuthenticationFailed{Remote: x.remote()}
	if e, ok := errors.AsType[*execution.Error](cause); ok {
		body.Reason = e.Code
	}
	if named, ok := errors.AsType[interface {
		error
		KeyID() string
	}](cause); ok {
		body.KeyID = named.KeyID()
	}
	if _, err := g.records.append(x.ctx(), execution.Record{
		Type: execution.RecordAuthenticationFailed, RequestID: x.requestID, TraceID: x.traceID, AuthenticationFailed: body,
	}); err != nil {
		g.config.Logger.ErrorContext(x.ctx(), "authentication failure not recorded", "request_id", x.requestID, "error", err)
	}
}

// bucket is a token bucket: burst tokens, and one more each interval.
type bucket struct {
	burst    int
	interval time.Duration

	mu         sync.Mutex
	full       time.Time // when it will be, or was, full again
	suppressed int
}

func newBucket(burst int, interval time.Duration) *bucket {
	return &bucket{burst: burst, interval: interval}
}

// take takes a token, and reports how often there was none since the last time
// there was.
func (b *bucket) take(now time.Time) (ok bool, suppressed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.full
	if full.Before(now) {
		full = now
	}
	// Each token that is out puts the moment of fullness off by one interval.
	if full = full.Add(b.interval); full.Sub(now) > time.Duration(b.burst)*b.interval {
		b.suppressed++
		return false, 0
	}
	b.full = full
	suppressed, b.suppressed = b.suppressed, 0
	return true, suppressed
}
