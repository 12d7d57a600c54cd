package execution

import "time"

// PolicyState is which policy of the organisation is in force, and how it came
// to be.
type PolicyState struct {
	Revision string            `json:"revision"` // empty: none is in force
	Active   *PolicyActivation `json:"active,omitempty"`
	// Before are those that were in force before, the latest first: a rollback
	// goes to the first of them.
	Before []PolicyActivation `json:"before"`
	// Refused is the last one that was not put in force; nil since one was.
	Refused *PolicyRefusal `json:"refused,omitempty"`
}

// PolicyActivation is one that is or was in force.
type PolicyActivation struct {
	Digest   string    `json:"digest"` // of its files
	Source   string    `json:"source"`
	Sequence uint64    `json:"sequence,omitempty"` // of its signature
	By       string    `json:"by,omitempty"`       // subject; empty: the gateway itself
	Since    time.Time `json:"since"`
}

// PolicyRefusal is a bundle that was not put in force.
type PolicyRefusal struct {
	Digest string    `json:"digest,omitempty"`
	Source string    `json:"source"`
	At     time.Time `json:"at"`
	Code   string    `json:"code"`
	Errors []string  `json:"errors"`
}
