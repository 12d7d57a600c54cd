package execution

import "time"

// ApprovalGiven is an approval that a request resumes with, as policy sees it.
// The gateway has checked that it was given to this very request, in time, and by
// somebody who may.
type ApprovalGiven struct {
	ID            string    // of the approval
	By            string    // subject of who approved; never that of who asked
	At            time.Time // UTC
	Comment       string    // of who approved; may be empty
	RequestSHA256 string    // of the request that was approved
}

// ApprovalState is how an approval stands.
type ApprovalState string

// The states of an approval. All but the first are final.
const (
	ApprovalPending  ApprovalState = "pending"
	ApprovalApproved ApprovalState = "approved"
	ApprovalDenied   ApprovalState = "denied"
	ApprovalExpired  ApprovalState = "expired"
	// ApprovalVoided: what was asked cannot be approved any more, see ApprovalChange.Why.
	ApprovalVoided ApprovalState = "voided"
)

// ApprovalStates lists every state.
func ApprovalStates() []ApprovalState {
	return []ApprovalState{ApprovalPending, ApprovalApproved, ApprovalDenied, ApprovalExpired, ApprovalVoided}
}

// The bounds of an approval's texts, in bytes.
const (
	MaxApprovalComment = 1 << 10
	MaxApprovalRoles   = 16
)

// ApprovalBinding is what an approval holds for, and for nothing else.
type ApprovalBinding struct {
	Subject       string  `json:"subject"` // who asked
	Action        Action  `json:"action"`
	RequestSHA256 string  `json:"request_sha256"`
	Image         string  `json:"image"`    // the digest that would run
	Revision      string  `json:"revision"` // of the organisation's policy
	Layers        []Layer `json:"layers,omitempty"`
}

// ApprovalChange is the body of the records of approvals.
type ApprovalChange struct {
	ID      string          `json:"id"`
	Binding ApprovalBinding `json:"binding"`
	// Expires and Roles are the terms it was asked for on.
	Expires time.Time `json:"expires"`
	Roles   []string  `json:"roles"`
	Comment string    `json:"comment,omitempty"` // of who approved or denied
	Why     string    `json:"why,omitempty"`     // of RecordApprovalVoided: what changed
}
