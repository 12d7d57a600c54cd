package execution

import "time"

// Lease is what was lent to one execution, with the duty to give it back. It
// names credentials and never holds their values.
type Lease struct {
	Tool    string    `json:"tool"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked"`
	// Exposed says that the program itself was given the value.
	Exposed bool `json:"exposed,omitempty"`
	// Unleased says that the value has no end and cannot be taken back: it is from a
	// file, for trying things out.
	Unleased bool `json:"unleased,omitempty"`
}
