package gateway

import (
	"encoding/json"
	"time"

	"github.com/execgate/execgate/execution"
)

// The events that webhooks are told of.
const (
	eventApprovalPending = "approval_pending"
	eventAllowed         = "execution_allowed"
)

// notice is the body of a delivery. It says that something is there to be looked
// at: no code, no input, no text that a caller or a policy chose freely.
type notice struct {
	Event     string           `json:"event"`
	Time      time.Time        `json:"time"`
	Tenant    string           `json:"tenant"`
	Subject   string           `json:"subject"` // who asked
	Execution string           `json:"execution,omitempty"`
	Session   string           `json:"session,omitempty"` // of one that is opened
	Action    execution.Action `json:"action"`

	Approval string    `json:"approval,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Roles    []string  `json:"roles,omitempty"`
	Codes    []string  `json:"codes,omitempty"` // of the reasons

	RequestSHA256 string `json:"request_sha256,omitempty"`
	Revision      string `json:"revision,omitempty"`
}

// notifyPending tells the webhook of approvals, if there is one, that a awaits one.
func (s *Service) notifyPending(a StoredApproval, roles []string, reasons []execution.Reason) {
	h, ok := s.webhooks.place(s.pendingHook)
	if !ok {
		return
	}
	n := notice{
		Event: eventApprovalPending, Time: a.Created, Tenant: a.Tenant, Subject: a.Subject, Execution: a.Execution,
		Action: execution.ActionExecute, Approval: a.ID, Expires: a.Expires, Roles: roles,
	}
	for _, r := range reasons[:min(len(reasons), maxPolicyList)] {
		n.Codes = append(n.Codes, r.Code)
	}
	h.tell(a.ID, n)
}

// tell sends n by the place that h is.
func (h *hook) tell(id string, n notice) {
	body, err := json.Marshal(n)
	if err != nil { // nothing in it can fail to be encoded
		h.drop()
		return
	}
	h.send(id, body)
}
