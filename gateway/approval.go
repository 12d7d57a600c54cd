package gateway

import (
	"context"
	"time"

	"github.com/execgate/execgate/execution"
)

// StoredApproval is a request that awaits approval, or has, as it is remembered.
type StoredApproval struct {
	ID        string
	Execution string
	Tenant    string
	Subject   string // with Tenant: who asked
	State     execution.ApprovalState
	About     []byte // JSON: what may be shown of it
	// Request is what resumes it; nil unless it is pending and was loaded by id.
	Request []byte
	Created time.Time
	Expires time.Time // until then it may be approved

	// Of one that is not pending:
	By      string    // subject of who ended it; empty where nobody did
	At      time.Time // when
	Comment string
	Why     string    // of one that is voided
	Forget  time.Time // it may be forgotten from then on
}

// ApprovalQuery says which approvals to list.
type ApprovalQuery struct {
	Tenant string
	State  execution.ApprovalState // empty: any
	After  string                  // an id: only those that were asked for later
	Most   int
}

// Approvals remembers approvals, and keeps the requests that await them so that
// nobody can read or change them. What a method has done is durable when it
// returns.
type Approvals interface {
	// Add remembers a as pending and, in the same step, its execution, which must
	// be reserved, as awaiting approval with the body given. It fails with
	// KindSaturated where there is no room.
	Add(ctx context.Context, a StoredApproval, body []byte) error
	// Settle ends what is pending, or voids what is approved; it takes State, By,
	// At, Comment, Why and Forget of now. Where ended is not nil the execution that
	// still awaits it ends so in the same step. Of several at once one succeeds; the
	// others, and an approval past its time, fail with KindConflict.
	Settle(ctx context.Context, now StoredApproval, ended *Stored) error
	// Load fails with KindNotFound, and with KindGone, beside which all but the
	// Request is returned, where that cannot be read any more.
	Load(ctx context.Context, id string) (StoredApproval, error)
	// ByExecution fails with KindNotFound.
	ByExecution(ctx context.Context, id string) (StoredApproval, error)
	// List returns them in the order they were asked for.
	List(ctx context.Context, q ApprovalQuery) ([]StoredApproval, error)
	// Overdue returns at most `most` that are pending past their time, and when the
	// next one is due: zero where there is none.
	Overdue(ctx context.Context, now time.Time, most int) (due []StoredApproval, next time.Time, err error)
	// Interrupted returns those that are approved and whose execution still awaits
	// them.
	Interrupted(ctx context.Context) ([]StoredApproval, error)
	// Selected returns those that are pending and that an erasure selects.
	Selected(ctx context.Context, which execution.Erasure) ([]StoredApproval, error)
	// Shred has the requests of what was settled leave every file. It fails with
	// KindUnavailable, erasure_unfinished, where somebody still reads one.
	Shred(ctx context.Context) error
	// Sweep forgets what is settled and may be forgotten.
	Sweep(ctx context.Context) error
}

// Requesters knows whether who asked may still ask.
type Requesters interface {
	// Key returns the API key called id. It fails with KindNotFound.
	Key(ctx context.Context, id string) (execution.Key, error)
}

// heldRequest is what is kept, encrypted, of a request that awaits approval.
type heldRequest struct {
	Principal execution.Principal       `json:"principal"`
	Request   execution.Request         `json:"request"`
	RequestID string                    `json:"request_id"`
	TraceID   string                    `json:"trace_id"`
	Binding   execution.ApprovalBinding `json:"binding"`
	Roles     []string                  `json:"roles"`

	unreadable bool // it is not what was kept: that is lost
}

// approvalAbout is what is shown of an approval to all who may see it: no code, no
// input, no values of variables.
type approvalAbout struct {
	Binding    execution.ApprovalBinding `json:"binding"`
	Roles      []string                  `json:"roles"`
	Reasons    []execution.Reason        `json:"reasons"`
	Language   string                    `json:"language,omitempty"`
	Image      string                    `json:"image"` // by name
	CodeSHA256 string                    `json:"code_sha256,omitempty"`
	CodeBytes  int                       `json:"code_bytes,omitempty"`
	Session    string                    `json:"session,omitempty"`
	EnvNames   []string                  `json:"env_names"`
	Network    []execution.Destination   `json:"network"`
	Tools      []string                  `json:"tools"`
	Metadata   map[string]string         `json:"metadata,omitempty"`
	Grant      execution.Grant           `json:"grant"` // what would be granted
}

// Why an approval is voided.
const (
	voidRequest    = "request_changed"
	voidImage      = "image_changed"
	voidPolicy     = "policy_changed"
	voidRequester  = "requester_revoked"
	voidSession    = "session_ended"
	voidUnreadable = "unreadable"  // what was asked cannot be read any more
	voidLost       = "lost"        // the execution is not remembered any more
	voidWithdrawn  = "withdrawn"   // who asked has cancelled the execution
	voidStopped    = "interrupted" // the gateway ended before it was decided anew
	voidErased     = "erased"      // what was asked was erased
	voidUndecided  = "undecided"   // it could not be decided anew, or that not be recorded
)

// voids says it in words.
var voids = map[string]string{
	voidRequest:    "the request is another than was asked for",
	voidImage:      "the name of the image leads to another image than when it was asked for",
	voidPolicy:     "the policy has changed since it was asked for",
	voidRequester:  "the key of who asked is revoked or expired",
	voidSession:    "the session has ended",
	voidUnreadable: "what was asked cannot be read any more",
	voidLost:       "the execution is not remembered any more",
	voidWithdrawn:  "it was cancelled by who asked, or by an admin",
	voidStopped:    "the gateway was stopped before it was decided anew",
	voidErased:     "what was asked was erased",
	voidUndecided:  "it could not be decided anew",
}
