package execution

import "time"

// Action is the kind of thing a policy is asked about.
type Action string

// The actions that are asked about so far.
const (
	ActionExecute Action = "execute"
	ActionSession Action = "session" // open one; Request has its language or image, and limits
	// ActionToolCall calls a tool: Request is what the registry says of it, and never
	// the caller's, but for what the tool reads on standard input.
	ActionToolCall Action = "tool_call"
	// ActionEgress lets one request out of a sandbox: Question has ID, of the
	// execution, Time, Principal, Egress, and of Request the session and the metadata.
	// The answer needs no grant.
	ActionEgress Action = "egress"
	// ActionAuditRead reads the audit log, or what is derived of it: Question has ID, of
	// the HTTP request, Time and Principal. The answer needs no grant.
	ActionAuditRead Action = "audit_read"
)

// Question is what policy is asked: one principal, one request, and what the
// gateway found out about it.
type Question struct {
	ID            string    // the id of the execution, or of the session that is asked for
	Time          time.Time // the only clock a policy has
	TraceID       string    // 32 hex digits, or empty
	Principal     Principal
	Action        Action
	Request       Request
	RequestSHA256 string // Request.SHA256
	// Tool is of ActionToolCall.
	Tool ToolCall
	// Egress is of ActionEgress.
	Egress *EgressRequest
	// Image is the image that would run, by name and by the digest that the
	// name resolves to now.
	Image Image
	// Counters are the tenant's, PrincipalCounters those of the principal alone.
	Counters, PrincipalCounters Counters
	// Approval is the one that the request resumes with; nil where it has none.
	Approval *ApprovalGiven
}

// Image is an image by the name policy grants and the digest that runs.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // "sha256:" and 64 hex digits
}
