package execution

import "encoding/json"

// Asked is what a decision is replayed with: exactly what policy was asked and
// what it answered, and by which policies. It holds callers' data, and is no part
// of the decision's record.
type Asked struct {
	Input json.RawMessage
	// Answer is the Decision as policy gave it, as JSON. The gateway may have
	// refused after all what it allows.
	Answer json.RawMessage
	// Organisation, Own and Terms are the revisions of the organisation's policy,
	// the tenant's own, and what the operator's configuration adds; empty where
	// there is none.
	Organisation, Own, Terms string
	// Documents are what these name.
	Documents []PolicyDocument
}

// The kinds of a PolicyDocument.
const (
	PolicyBundle = "bundle"
	PolicyTerms  = "terms"
)

// PolicyDocument is one of the documents that decide. Its Content is shared, and
// must not be changed.
type PolicyDocument struct {
	Kind     string
	Revision string
	Tenant   string // whose it is; empty for the organisation's
	Content  []byte
}

// PolicyFlip is the body of a RecordPolicyFlip and a RecordReplayDiffers: a
// decision that another evaluation of the same input does not confirm.
type PolicyFlip struct {
	DecidedSeq uint64 `json:"decided_seq"` // the record of the decision
	// Candidate is the revision that decides otherwise; of a RecordReplayDiffers
	// that of the decision itself.
	Candidate string `json:"candidate"`
	Revision  string `json:"revision"` // that the decision was made by
	// Classes are how the two differ, such as deny_to_allow.
	Classes []string `json:"classes"`
	Was     Effect   `json:"was"`
	Is      Effect   `json:"is"`
	// Rules are the ids of the rules that decided, first the recorded and then
	// the other; at most MaxFlipRules of each.
	WasRules []string `json:"was_rules,omitempty"`
	IsRules  []string `json:"is_rules,omitempty"`
	// Omitted are further ones since the last record, which have none of their own.
	Omitted uint64 `json:"omitted,omitempty"`
}

// MaxFlipRules bounds the rules that a PolicyFlip names.
const MaxFlipRules = 8
