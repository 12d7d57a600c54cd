package execution

// NetworkMode says how connections to a destination are carried.
type NetworkMode string

// The modes. The zero NetworkMode is none of them and carries nothing.
const (
	NetworkIntercept NetworkMode = "intercept" // TLS ends at the gateway; each request is decided
	NetworkTunnel    NetworkMode = "tunnel"    // TLS to one host and port, unread
	NetworkForward   NetworkMode = "forward"   // plain TCP to one host and port
)

// Network is what an execution may reach. The zero Network is nothing.
type Network struct {
	Rules []NetworkRule `json:"rules,omitempty"`
	// Budget bounds all that goes out together. Where there are rules every field
	// is set, and zero is invalid.
	Budget NetworkBudget `json:"budget,omitzero"`
}

// NetworkRule opens destinations.
type NetworkRule struct {
	// Host is one name, in lower case and IDNA form, without a dot at its end; of
	// intercept and tunnel it may begin with "*.", for any name below.
	Host  string `json:"host"`
	Ports []int  `json:"ports"` // never none
	// Methods and Paths narrow requests of the mode intercept; none: any.
	Methods   []string `json:"methods,omitempty"`
	Paths     []string `json:"paths,omitempty"`
	WebSocket bool     `json:"websocket,omitempty"`
	// Private allows addresses that are not public, where the gateway's
	// configuration allows them too.
	Private bool        `json:"private,omitempty"`
	Mode    NetworkMode `json:"mode"`
}

// NetworkBudget bounds what one execution sends out and takes in.
type NetworkBudget struct {
	Requests     int64 `json:"requests,omitempty"`       // of the whole execution; a connection of tunnel or forward counts as one
	Bytes        int64 `json:"bytes,omitempty"`          // both ways together
	RequestsPerS int64 `json:"requests_per_s,omitempty"` // requests and connections begun
	Connections  int64 `json:"connections,omitempty"`    // at once
}
