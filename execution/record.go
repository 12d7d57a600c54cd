package execution

import "time"

// RecordType says what a Record tells.
type RecordType string

// The types of records written so far.
const (
	RecordDecided              RecordType = "decided"
	RecordEnded                RecordType = "ended"
	RecordAuthenticationFailed RecordType = "authentication_failed"
	RecordPolicyActivated      RecordType = "policy_activated"
	RecordPolicyRefused        RecordType = "policy_refused"
	RecordKeyCreated           RecordType = "key_created"
	RecordKeyRevoked           RecordType = "key_revoked"
	RecordGap                  RecordType = "gap"
)

// Record is one entry of the audit log. Exactly one of the bodies is set: the
// one that Type names. Secrets never enter a record, nor do code, input, output
// or values of variables: those stand as digests.
type Record struct {
	// Seq is the record's number, rising by one from 0; numbers are missing only
	// where a RecordGap names them. The log sets it.
	Seq  uint64     `json:"seq"`
	Type RecordType `json:"type"`
	Time time.Time  `json:"time"`

	Execution string     `json:"execution,omitempty"`
	Principal *Principal `json:"principal,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
	TraceID   string     `json:"trace_id,omitempty"`

	Decided              *Decided              `json:"decided,omitempty"`
	Ended                *Ended                `json:"ended,omitempty"`
	AuthenticationFailed *AuthenticationFailed `json:"authentication_failed,omitempty"`
	Policy               *PolicyChange         `json:"policy,omitempty"`
	Key                  *KeyChange            `json:"key,omitempty"`
	Gap                  *Gap                  `json:"gap,omitempty"`
}

// Decided is the body of a RecordDecided: what was asked, by digest, and the
// whole decision.
type Decided struct {
	RequestSHA256 string            `json:"request_sha256"`
	CodeSHA256    string            `json:"code_sha256,omitempty"`
	CodeBytes     int               `json:"code_bytes,omitempty"`
	Language      string            `json:"language,omitempty"`
	Image         string            `json:"image,omitempty"` // the name that was asked for, or resolved from the language
	EnvNames      []string          `json:"env_names,omitempty"`
	Network       []Destination     `json:"network,omitempty"`
	Tools         []string          `json:"tools,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Decision      Decision          `json:"decision"`
}

// Ended is the body of a RecordEnded.
type Ended struct {
	DecidedSeq   uint64         `json:"decided_seq"` // the record that opened this execution
	Outcome      Outcome        `json:"outcome"`
	ExitCode     *int           `json:"exit_code"`
	StdoutSHA256 string         `json:"stdout_sha256,omitempty"`
	StderrSHA256 string         `json:"stderr_sha256,omitempty"`
	ResultSHA256 string         `json:"result_sha256,omitempty"`
	Artifacts    []ArtifactHash `json:"artifacts,omitempty"`
	Usage        Usage          `json:"usage"`
	Leases       []Lease        `json:"leases,omitempty"`
	Error        string         `json:"error,omitempty"` // code of the fault where Outcome is engine_failed
}

// ArtifactHash stands for an artifact in a record.
type ArtifactHash struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// AuthenticationFailed is the body of a RecordAuthenticationFailed.
type AuthenticationFailed struct {
	Reason string `json:"reason"`           // missing, malformed, unknown, expired, revoked
	KeyID  string `json:"key_id,omitempty"` // only where it names a key that exists
	Remote string `json:"remote"`           // address of the peer
}

// PolicyChange is the body of a RecordPolicyActivated and a RecordPolicyRefused.
type PolicyChange struct {
	Revision string   `json:"revision,omitempty"`
	Source   string   `json:"source"` // embedded, or the folder
	Errors   []string `json:"errors,omitempty"`
}

// KeyChange is the body of a RecordKeyCreated and a RecordKeyRevoked.
type KeyChange struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Roles  []Role `json:"roles"`
}

// Gap is the body of a RecordGap: it names what a failed write left behind.
type Gap struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // bytes; what follows in the file is void
	// FirstVoid and LastVoid are the sequence numbers that were assigned to
	// records of the void tail and never acknowledged; they are used by no
	// other record.
	FirstVoid uint64 `json:"first_void"`
	LastVoid  uint64 `json:"last_void"`
}
