package execution

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// RecordType says what a Record tells.
type RecordType string

// The types of records written so far.
const (
	RecordDecided              RecordType = "decided"
	RecordStarted              RecordType = "started" // not waited for, but before the end
	RecordEnded                RecordType = "ended"
	RecordSession              RecordType = "session"
	RecordAuthenticationFailed RecordType = "authentication_failed"
	RecordPolicyActivated      RecordType = "policy_activated"
	RecordPolicyRefused        RecordType = "policy_refused"
	RecordPolicyDropped        RecordType = "policy_dropped"
	RecordKeyCreated           RecordType = "key_created"
	RecordKeyRevoked           RecordType = "key_revoked"
	RecordApprovalRequested    RecordType = "approval_requested"
	RecordApprovalApproved     RecordType = "approval_approved"
	RecordApprovalDenied       RecordType = "approval_denied"
	RecordApprovalExpired      RecordType = "approval_expired"
	RecordApprovalVoided       RecordType = "approval_voided"
	RecordPolicyFlip           RecordType = "policy_flip"    // a shadow policy decides otherwise
	RecordReplayDiffers        RecordType = "replay_differs" // a decision is not what its own policy decides
	RecordLeaseIssued          RecordType = "lease_issued"   // before the value is used
	RecordLeaseRevoked         RecordType = "lease_revoked"  // also: the attempt failed, and is made again
	RecordEgressDecided        RecordType = "egress_decided" // before anything leaves
	RecordEgressEnded          RecordType = "egress_ended"
	RecordAuditRead            RecordType = "audit_read" // before it is answered
	RecordGap                  RecordType = "gap"
	RecordAuditKeyRotated      RecordType = "audit_key_rotated" // the log's own signing key
	RecordSegmentsRemoved      RecordType = "segments_removed"  // before it is done
	RecordHeartbeat            RecordType = "heartbeat"         // nothing else was recorded for a while
	RecordConfigChanged        RecordType = "config_changed"    // the gateway started under another configuration than the last time
	RecordErased               RecordType = "erased"            // before anything is erased
)

// RecordVersion is the version of the form of records that RecordSchema describes.
// A new member or type leaves it; a member that goes, or means another thing, does
// not.
const RecordVersion = 1

// Record is one entry of the audit log. Exactly one of the bodies is set: the
// one that Type names. Secrets never enter a record, nor do code, input, output
// or values of variables: those stand as digests.
type Record struct {
	// Seq is the record's number, rising by one from 0; numbers are missing only
	// where a RecordGap names them. The log sets it.
	Seq  uint64     `json:"seq"`
	Type RecordType `json:"type"`
	Time time.Time  `json:"time"` // UTC
	// V is the version of the record's form, RecordVersion. The log sets it.
	V int `json:"v"`

	Execution string     `json:"execution,omitempty"`
	Principal *Principal `json:"principal,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
	TraceID   string     `json:"trace_id,omitempty"`

	Decided              *Decided              `json:"decided,omitempty"`
	Started              *Started              `json:"started,omitempty"`
	Ended                *Ended                `json:"ended,omitempty"`
	Session              *SessionChange        `json:"session,omitempty"`
	AuthenticationFailed *AuthenticationFailed `json:"authentication_failed,omitempty"`
	Policy               *PolicyChange         `json:"policy,omitempty"`
	Key                  *KeyChange            `json:"key,omitempty"`
	Approval             *ApprovalChange       `json:"approval,omitempty"`
	Flip                 *PolicyFlip           `json:"flip,omitempty"`
	Lease                *LeaseChange          `json:"lease,omitempty"`
	EgressDecided        *EgressDecided        `json:"egress_decided,omitempty"`
	EgressEnded          *EgressEnded          `json:"egress_ended,omitempty"`
	AuditRead            *AuditRead            `json:"audit_read,omitempty"`
	Gap                  *Gap                  `json:"gap,omitempty"`
	AuditKey             *AuditKeyRotation     `json:"audit_key,omitempty"`
	SegmentsRemoved      *SegmentsRemoved      `json:"segments_removed,omitempty"`
	Heartbeat            *Heartbeat            `json:"heartbeat,omitempty"`
	Config               *ConfigChange         `json:"config,omitempty"`
	Erasure              *Erasure              `json:"erasure,omitempty"`
}

// Decided is the body of a RecordDecided: what was asked, by digest, and the
// whole decision.
type Decided struct {
	Action        Action            `json:"action,omitempty"`      // empty in records from before there were several: execute
	Parent        string            `json:"parent,omitempty"`      // the execution whose program called the tool
	Session       string            `json:"session,omitempty"`     // the one that is opened, or run in
	Tool          string            `json:"tool,omitempty"`        // of ActionToolCall: the one that is called
	ArgsSHA256    string            `json:"args_sha256,omitempty"` // of ActionToolCall: ToolCall.ArgsSHA256
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
	// InputSHA256 and AnswerSHA256 are of exactly what policy was asked and answered,
	// as it is kept encrypted (see Asked); empty where nobody keeps it.
	InputSHA256  string `json:"input_sha256,omitempty"`
	AnswerSHA256 string `json:"answer_sha256,omitempty"`
}

// SessionEvent says what a SessionChange tells.
type SessionEvent string

// What is recorded of a session.
const (
	SessionOpened SessionEvent = "opened"
	SessionClosed SessionEvent = "ended"
	SessionPut    SessionEvent = "file_put" // before it is done
	SessionGot    SessionEvent = "file_got" // before it is answered
)

// SessionChange is the body of a RecordSession.
type SessionChange struct {
	ID     string        `json:"id"`
	What   SessionEvent  `json:"what"`
	Reason SessionEnd    `json:"reason,omitempty"` // of SessionClosed
	File   *ArtifactHash `json:"file,omitempty"`   // of SessionPut and SessionGot; the path cut to MaxRecordPath
}

// The bounds of an Ended, so that a program cannot make its own end too large
// for the log. Texts count as they stand in the JSON, escapes and all.
const (
	MaxRecordArtifacts = 64  // listed; all of them are in ArtifactsSHA256
	MaxRecordPath      = 256 // bytes
	MaxRecordLeases    = 64
	MaxRecordTool      = 64  // bytes
	MaxRecordLeaseID   = 256 // bytes
)

// Ended is the body of a RecordEnded. Whoever makes one keeps it within the
// bounds above: the log reserves the space for it when the execution begins.
type Ended struct {
	DecidedSeq   uint64  `json:"decided_seq"` // the record that opened this execution
	Outcome      Outcome `json:"outcome"`
	ExitCode     *int    `json:"exit_code"`
	Status       int     `json:"status,omitempty"` // of a tool of ToolHTTP: what its destination answered
	StdoutSHA256 string  `json:"stdout_sha256,omitempty"`
	StderrSHA256 string  `json:"stderr_sha256,omitempty"`
	ResultSHA256 string  `json:"result_sha256,omitempty"`
	// Artifacts are the first MaxRecordArtifacts, with paths cut to
	// MaxRecordPath. ArtifactsCount and ArtifactsSHA256 are of all, uncut.
	Artifacts       []ArtifactHash `json:"artifacts,omitempty"`
	ArtifactsCount  int            `json:"artifacts_count,omitempty"`
	ArtifactsSHA256 string         `json:"artifacts_sha256,omitempty"`
	Usage           Usage          `json:"usage"`
	Leases          []Lease        `json:"leases,omitempty"`
	Error           string         `json:"error,omitempty"` // code of the fault where Outcome is engine_failed
}

// ArtifactHash stands for an artifact in a record.
type ArtifactHash struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ArtifactsSHA256 is one digest over all artifacts of an execution, in hex; empty
// where there are none. It is over one entry for each, in the order of their
// paths as bytes: the content's digest in hex, a space, the size in decimal, a
// space, the whole path, and a NUL, which no path can hold.
func ArtifactsSHA256(artifacts []ArtifactHash) string {
	if len(artifacts) == 0 {
		return ""
	}
	ordered := slices.Clone(artifacts)
	slices.SortFunc(ordered, func(a, b ArtifactHash) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.SHA256, b.SHA256))
	})
	sum := sha256.New()
	for _, a := range ordered {
		fmt.Fprintf(sum, "%s %d %s\x00", a.SHA256, a.Size, a.Path)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// AuthenticationFailed is the body of a RecordAuthenticationFailed.
type AuthenticationFailed struct {
	Reason string `json:"reason"`           // missing, malformed, unknown, expired, revoked
	KeyID  string `json:"key_id,omitempty"` // only where it names a key that exists
	Remote string `json:"remote"`           // address of the peer
}

// PolicyChange is the body of a RecordPolicyActivated, a RecordPolicyRefused and a
// RecordPolicyDropped.
type PolicyChange struct {
	Revision string   `json:"revision,omitempty"`
	Layer    string   `json:"layer,omitempty"`    // LayerTenant, LayerCeilings; empty: the organisation's
	Source   string   `json:"source"`             // embedded, or the folder or file
	Tenant   string   `json:"tenant,omitempty"`   // whose own policy it is; empty: the organisation's
	Digest   string   `json:"digest,omitempty"`   // of the bundle's files
	Sequence uint64   `json:"sequence,omitempty"` // of its signature
	Errors   []string `json:"errors,omitempty"`
}

// KeyChange is the body of a RecordKeyCreated and a RecordKeyRevoked.
type KeyChange struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Roles  []Role `json:"roles"`
}

// LeaseChange is the body of a RecordLeaseIssued and a RecordLeaseRevoked.
type LeaseChange struct {
	Lease
	Engine string `json:"engine,omitempty"`
	Mount  string `json:"mount,omitempty"`
	Path   string `json:"path,omitempty"`
	Inject Inject `json:"inject,omitempty"`
	// Accessor names the token at Vault that the lease is under; it opens nothing.
	Accessor string `json:"accessor,omitempty"`
	Error    string `json:"error,omitempty"` // a code: why it is not revoked yet
}

// EgressDecided is the body of a RecordEgressDecided: one connection that a program
// opened by name, or of the mode intercept one request.
type EgressDecided struct {
	Host   string      `json:"host"`
	Port   int         `json:"port"`           // 0: the name was looked up, and is not to be found
	Mode   NetworkMode `json:"mode,omitempty"` // of the rule that opens it; empty where none does
	Effect Effect      `json:"effect"`
	Code   string      `json:"code,omitempty"` // why it is denied
	// Address is what is dialled, as IP:port; empty where it is denied.
	Address string `json:"address,omitempty"`
	// Method and Path are those of a request. The path is the one that was compared
	// and is forwarded, without the query; both are cut where they are too long.
	Method  string `json:"method,omitempty"`
	Path    string `json:"path,omitempty"`
	Cut     bool   `json:"cut,omitempty"`     // Method or Path was
	Rule    string `json:"rule,omitempty"`    // the host of the rule that opens the request, as policy has it
	Binding string `json:"binding,omitempty"` // the tool whose credential is set on the request
}

// EgressEnded is the body of a RecordEgressEnded.
type EgressEnded struct {
	DecidedSeq uint64 `json:"decided_seq"`
	BytesOut   int64  `json:"bytes_out"`
	BytesIn    int64  `json:"bytes_in"`
	WallMS     int64  `json:"wall_ms"`
	Status     int    `json:"status,omitempty"` // of a request: what the destination answered
	Error      string `json:"error,omitempty"`  // a code: how it ended, where not by either side's end
}

// AuditRead is the body of a RecordAuditRead: somebody read the log, or what is
// derived of it.
type AuditRead struct {
	What   string            `json:"what"`             // records, record or usage
	Filter map[string]string `json:"filter,omitempty"` // as it was asked for
	Count  int               `json:"count"`            // of what is answered
	More   bool              `json:"more,omitempty"`   // there is more: its following pages have no records of their own for a minute
	// Effect and Reasons are policy's: where it does not allow, nothing was answered.
	Effect   Effect   `json:"effect"`
	Reasons  []Reason `json:"reasons,omitempty"`
	Warnings []Reason `json:"warnings,omitempty"` // of rules in the mode warn or shadow
	Revision string   `json:"revision,omitempty"`
}

// What an AuditRead read.
const (
	ReadRecords = "records"
	ReadRecord  = "record"
	ReadUsage   = "usage"
	ReadFull    = "full" // what is kept encrypted beside the log, of an execution or a session
)

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

// AuditKeyRotation is the body of a RecordAuditKeyRotated. The log's state right
// after it is signed by both keys, and what comes later by the new one alone.
type AuditKeyRotation struct {
	Old string `json:"old"` // verifier keys of sumdb/note, as in audit.pub
	New string `json:"new"`
}

// SegmentsRemoved is the body of a RecordSegmentsRemoved: what retention takes from
// the beginning of the log.
type SegmentsRemoved struct {
	Files  []string      `json:"files"` // at most MaxRecordSegments
	Bytes  int64         `json:"bytes"`
	First  uint64        `json:"first"` // number of the first record in them
	Last   uint64        `json:"last"`
	Root   string        `json:"root"` // of the tree of the numbers up to Last, in base64
	Reason RemovalReason `json:"reason"`
}

// MaxRecordSegments bounds the files of one SegmentsRemoved.
const MaxRecordSegments = 64

// RemovalReason says why segments were removed.
type RemovalReason string

// Why segments are removed.
const (
	RemovedByAge  RemovalReason = "age"
	RemovedBySize RemovalReason = "size"
)

// Heartbeat is the body of a RecordHeartbeat.
type Heartbeat struct {
	EveryS   int64  `json:"every_s"`  // after so long without a record there is one
	UptimeS  int64  `json:"uptime_s"` // since the log was opened
	Records  uint64 `json:"records"`  // since then, without this one
	Open     int    `json:"open"`     // executions that are under way
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`  // that the segments take up
	Oldest   uint64 `json:"oldest"` // number of the oldest record that is kept
}

// ConfigChange is the body of a RecordConfigChanged. No value of a setting is in it.
type ConfigChange struct {
	Digest  string   `json:"digest"`  // of the whole effective configuration: HMAC-SHA-256, under a key of the gateway, in hex
	Changed []string `json:"changed"` // settings that differ from the last start; at the first one, from the defaults
}

// Erasure is the body of a RecordErased: what was kept beside the log, and is erased
// now. Of the selectors each that is set narrows.
type Erasure struct {
	Execution string     `json:"execution,omitempty"` // or a session
	Tenant    string     `json:"tenant,omitempty"`
	Subject   string     `json:"subject,omitempty"`   // of Tenant
	Before    *time.Time `json:"before,omitempty"`    // decided earlier
	Inputs    int64      `json:"inputs"`              // what policy was asked, of so many decisions
	Materials int64      `json:"materials"`           // requests and outputs that the obligation record_full kept
	Results   int64      `json:"results"`             // that submitted executions are remembered with
	Approvals int64      `json:"approvals,omitempty"` // that were pending, and are voided with their requests
}
