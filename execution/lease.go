package execution

import "time"

// Lease is what was lent to one execution, with the duty to give it back. It
// names credentials and never holds their values.
type Lease struct {
	Tool    string    `json:"tool"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked"`
}
