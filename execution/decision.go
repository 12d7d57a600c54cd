package execution

import "encoding/json"

// Effect is what policy answers.
type Effect string

// The effects. The zero Effect is not among them and denies.
const (
	EffectAllow           Effect = "allow"
	EffectDeny            Effect = "deny"
	EffectRequireApproval Effect = "require_approval"
)

// Reason says why a decision is what it is, in words that an agent can act on.
type Reason struct {
	Code        string `json:"code"`                  // stable, snake_case
	Message     string `json:"message,omitempty"`     // for the caller
	Rule        string `json:"rule,omitempty"`        // id of the rule that decided
	Remediation string `json:"remediation,omitempty"` // what to do next
}

// Codes of reasons that the gateway gives itself, beside those of the rules.
const (
	CodePolicyUndefined   = "policy_undefined"   // the policy has no answer
	CodePolicyInvalid     = "policy_invalid"     // the answer is not a decision document
	CodePolicyError       = "policy_error"       // evaluation failed
	CodePolicyTimeout     = "policy_timeout"     // evaluation ran past its deadline
	CodePolicyNotLoaded   = "policy_not_loaded"  // no policy is in force
	CodePolicyUnsupported = "policy_unsupported" // the answer asks for what this gateway cannot do
	CodeEngineUnavailable = "engine_unavailable" // the container engine does not answer
	// CodeSessionExceedsGrant: the session has more than the policy grants now.
	CodeSessionExceedsGrant = "session_exceeds_grant"
)

// Clamp is one quantity that was asked for and reduced.
type Clamp struct {
	Limit     string `json:"limit"`
	Requested int64  `json:"requested"`
	Granted   int64  `json:"granted"`
}

// Obligation is something that has to be done besides running the program.
type Obligation struct {
	Type string `json:"type"`
	Must bool   `json:"must"`
	// Args are its further members, as a JSON object with sorted keys; nil where
	// it has none. What they mean is for its type to say.
	Args json.RawMessage `json:"args,omitempty"`
}

// Decision is the answer of policy to one Request. The zero Decision denies.
type Decision struct {
	Effect  Effect   `json:"effect"`
	Reasons []Reason `json:"reasons"`
	// Grant is meaningful only where Allowed reports true.
	Grant       Grant        `json:"grant,omitzero"`
	Clamped     []Clamp      `json:"clamped"`
	Obligations []Obligation `json:"obligations,omitempty"`
	// Approval says how the approval is had that the decision depends on, where
	// Effect is EffectRequireApproval. Grant is then what would be granted.
	Approval *ApprovalTerms `json:"approval,omitempty"`
	// Warnings are the reasons for which rules in the mode warn would have denied.
	Warnings []Reason `json:"warnings,omitempty"`
	// Shadowed are those of rules in the mode shadow: for records, never for callers.
	Shadowed []Reason `json:"shadowed,omitempty"`
	// Revision names the organisation's policy and data that decided: "sha256:"
	// and 64 hex digits.
	Revision string `json:"revision"`
	// Layers are what else decided, beside the organisation's policy.
	Layers []Layer `json:"layers,omitempty"`
	// Asked is what the decision is replayed with; nil where it is not known. It is
	// in no record and no answer.
	Asked *Asked `json:"-"`
}

// The names of layers.
const (
	LayerTenant   = "tenant"
	LayerCeilings = "ceilings"
)

// Layer is one of several that a decision is narrowed by.
type Layer struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
}

// ApprovalTerms are the terms of an approval.
type ApprovalTerms struct {
	ExpiresS int64    `json:"expires_s"` // from the request on
	Roles    []string `json:"roles"`     // one of which the approver must have
}

// Allowed reports whether the decision is an explicit allow.
func (d Decision) Allowed() bool { return d.Effect == EffectAllow }

// Deny returns a decision that denies with one reason.
func Deny(revision string, reason Reason) Decision {
	return Decision{
		Effect: EffectDeny, Reasons: []Reason{reason}, Clamped: []Clamp{}, Revision: revision,
	}
}

// Grant is what an execution may have. It is literal: whoever carries it out
// adds no default, and a limit that is zero is invalid.
type Grant struct {
	// Image is the digest of the one image to run: "sha256:" and 64 hex digits.
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime,omitempty"` // the engine's name of an OCI runtime
	Limits  Limits `json:"limits,omitzero"`
	// Env are the names of variables that the caller may set.
	Env []string `json:"env,omitempty"`
	// OptionalControls are controls that the host need not be able to enforce.
	// A control that is not listed here and cannot be enforced refuses the run.
	OptionalControls []string `json:"optional_controls,omitempty"`
	// Credentials are what may be lent to this execution.
	Credentials []Credential `json:"credentials,omitempty"`
	// Session bounds the session that is opened, or that the execution is in.
	Session SessionGrant `json:"session,omitzero"`
	Reuse   Reuse        `json:"reuse,omitempty"`
	Network Network      `json:"network,omitzero"`
}
