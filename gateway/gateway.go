// Package gateway carries one execution from request to audited result. Service
// is the one way through; Gateway is its HTTP surface.
package gateway

import (
	"context"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/scrub"
)

// Authenticator proves who presents a credential.
type Authenticator interface {
	// Authenticate fails with an execution.Error of KindUnauthenticated, whose
	// Code says why (malformed, unknown, expired, revoked), or of
	// KindUnavailable. Where a cause of the error has a method KeyID() string,
	// that names an existing key for the record.
	Authenticate(ctx context.Context, credential execution.Secret) (execution.Principal, error)
}

// Decider answers what a principal may do.
type Decider interface {
	// Decide has no error: whatever goes wrong is a Decision that denies.
	Decide(ctx context.Context, q execution.Question) execution.Decision
	// Explain gives the same Decision, and how it came about: every step of it
	// where full is set.
	Explain(ctx context.Context, q execution.Question, full bool) execution.Explanation
}

// Lender lends credentials to executions and takes them back.
type Lender interface {
	// Check says, without asking anybody, which credentials this gateway can never
	// lend: its error is of KindDenied, with reasons.
	Check(credentials []execution.Credential) error
	// Lend lends every credential of the loan or none, and returns once that is
	// recorded. Its error is of KindUnavailable where trying again may help.
	Lend(ctx context.Context, loan execution.Loan) (execution.Lent, error)
	// Revoke takes back whatever was lent to the execution, also by a Lend that
	// failed or never returned. It may be called again, and returns the leases
	// as they are then.
	Revoke(ctx context.Context, executionID string) ([]execution.Lease, error)
}

// Secrets is told of the values that programs have, so that what the process says of
// itself holds none of them.
type Secrets interface {
	Add(executionID string, values *scrub.Set)
	// Remove is called once the values are taken back.
	Remove(executionID string)
}

// Executor runs one job in one sandbox.
type Executor interface {
	// Execute returns when every process of the program has ended; its
	// container is removed soon after, in the background. A
	// program that failed, was stopped by a limit, or was cancelled with ctx is
	// a Result; an error means that the engine failed, and is of
	// KindUnavailable where trying again may help.
	Execute(ctx context.Context, job execution.Job) (execution.Result, error)
}

// Sandboxes keeps sandboxes open, each for one session. An execution runs in one
// where its Job names the session.
type Sandboxes interface {
	// OpenSession returns when executions can run in s. After an error there may
	// be something left, which CloseSession ends. The error is of KindUnavailable
	// where trying again may help, and of KindInvalid where what is granted cannot
	// hold a sandbox.
	OpenSession(ctx context.Context, s execution.Session) error
	// CloseSession ends whatever runs in the session and gives its sandbox up. It
	// is no error where there is none.
	CloseSession(ctx context.Context, id string) error
	// PutFile lays content into the session's /workspace at path, a clean one that
	// does not climb, in the place of what is there. It fails with KindGone,
	// session_ended, where the sandbox is lost; KindConflict, session_busy;
	// KindInvalid, file_refused, where a link, a folder or another thing that is no
	// file is in the way; and KindTooLarge, file_too_large, where there is no room.
	PutFile(ctx context.Context, id, path string, content []byte) error
	// GetFile returns the content of the file at path, of at most `most` bytes. It
	// fails as PutFile does, with KindTooLarge for a larger file, and with
	// KindNotFound, file_not_found.
	GetFile(ctx context.Context, id, path string, most int64) ([]byte, error)
}

// Images knows which image would run.
type Images interface {
	// Resolve returns the image of that name, or where image is empty the one
	// whose driver runs language. It fails with KindInvalid or KindNotFound for
	// a language or a name that it does not know, with a Detail that names what
	// would work, and with KindUnavailable where the engine does not answer.
	Resolve(ctx context.Context, language, image string) (execution.Image, error)
}

// Recorder is the audit log.
type Recorder interface {
	// Append returns the record's sequence number once the record is durable. It
	// returns when ctx ends, whatever the disk does.
	Append(ctx context.Context, r execution.Record) (uint64, error)
	// AppendLater takes r without waiting for the disk: it is durable soon, and before
	// whatever is appended after AppendLater has returned. lost is called, at most
	// once and perhaps by another goroutine, which it must not hold up, where r is not
	// written after all.
	AppendLater(r execution.Record, lost func(error))
}

// Stored is an execution as it is remembered.
type Stored struct {
	ID      string
	Tenant  string
	Subject string // with Tenant: whose it is
	// Key is the idempotency key that began it; empty where there was none.
	Key           string
	RequestSHA256 string
	State         string // a State
	Body          []byte // see Standing; of a state that is not over, what to say once it is lost
	Events        uint64
	Expires       time.Time // it may be forgotten from then on, if it is over
}

// Executions remembers executions past their request. What a method has done is
// durable when it returns.
type Executions interface {
	// Claim remembers want as reserved and returns it, or returns the execution,
	// without its body, that its owner has begun with the same key before. Of
	// several at once one gets its own. It fails with KindSaturated where there
	// is no room.
	Claim(ctx context.Context, want Stored) (Stored, error)
	// Release forgets an execution that is still reserved.
	Release(ctx context.Context, id string) error
	// Save replaces State, Body, Events and Expires, where the state is not over.
	Save(ctx context.Context, now Stored) error
	// Load fails with KindNotFound.
	Load(ctx context.Context, id string) (Stored, error)
	// Sweep forgets what has expired.
	Sweep(ctx context.Context) error
	// Recover ends what an earlier process left under way and keeps it until
	// expires; what is only reserved it forgets, except that what stands in lost
	// ends with the body given there.
	Recover(ctx context.Context, lost map[string][]byte, expires time.Time) error
}

// StoredSession is a session as it is remembered: not what is in it, which lives
// and dies with its sandbox.
type StoredSession struct {
	ID      string
	Owner   execution.Principal
	Ended   execution.SessionEnd // empty while it is open
	Created time.Time
	Expires time.Time // once it has ended: it may be forgotten from then on
}

// Sessions remembers which sessions are open, and for a while which have ended.
// What a method has done is durable when it returns.
type Sessions interface {
	// Add remembers a session as open.
	Add(ctx context.Context, s StoredSession) error
	// Remove forgets a session that is open, as if it had never been.
	Remove(ctx context.Context, id string) error
	// End remembers why a session that is open has ended, until expires.
	End(ctx context.Context, id string, why execution.SessionEnd, expires time.Time) error
	// Load fails with KindNotFound.
	Load(ctx context.Context, id string) (StoredSession, error)
	// Left returns those that are remembered as open.
	Left(ctx context.Context) ([]StoredSession, error)
	// Sweep forgets what has ended and expired.
	Sweep(ctx context.Context) error
}

// Keys makes and revokes API keys. before is called with the key as it will be;
// only where it returns nil does the change take effect.
type Keys interface {
	// CreateKey takes Tenant, Roles, Label and Expires of ask. The Secret is the
	// whole text of the key. It fails with KindInvalid and JSON pointers.
	CreateKey(ctx context.Context, ask execution.Key, before func(execution.Key) error) (execution.Key, execution.Secret, error)
	// RevokeKey fails with KindNotFound. A key that is revoked already stays as
	// it is, and before is not called.
	RevokeKey(ctx context.Context, id string, before func(execution.Key) error) (execution.Key, error)
	// Key fails with KindNotFound.
	Key(ctx context.Context, id string) (execution.Key, error)
	// Keys returns every key, oldest first.
	Keys(ctx context.Context) ([]execution.Key, error)
}

// Prober tells whether something the gateway needs is working.
type Prober interface {
	// Ready returns nil where it is. Of an execution.Error the Detail is shown
	// to everybody; any other error only says that the check failed.
	Ready(ctx context.Context) error
}
