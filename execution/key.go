package execution

import "time"

// Key is an API key as it is remembered: without its secret.
type Key struct {
	ID     string `json:"id"` // "ak_" and a ULID
	Tenant string `json:"tenant"`
	Roles  []Role `json:"roles"`
	// Hash is the SHA-256 of the secret. The secret has 256 random bits, so a
	// slow hash would add nothing.
	Hash    [32]byte  `json:"-"`
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Revoked time.Time `json:"revoked,omitzero"` // zero: not revoked
}
