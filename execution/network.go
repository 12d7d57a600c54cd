package execution

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// NetworkMode says how connections to a destination are carried.
type NetworkMode string

// The modes. The zero NetworkMode is none of them and carries nothing.
const (
	NetworkIntercept NetworkMode = "intercept" // TLS ends at the gateway; each request is decided
	NetworkTunnel    NetworkMode = "tunnel"    // TLS to one host and port, unread
	NetworkForward   NetworkMode = "forward"   // plain TCP to one host and port
)

// NetworkDecide says who decides about what goes out under a grant.
type NetworkDecide string

// The values of NetworkDecide. The empty one is DecideGrant.
const (
	DecideGrant   NetworkDecide = "grant"   // the rules of the grant alone
	DecideRequest NetworkDecide = "request" // policy besides, which is asked about each request
)

// Network is what an execution may reach. The zero Network is nothing.
type Network struct {
	Rules []NetworkRule `json:"rules,omitempty"`
	// Decide is of what the rules open: they come first whatever it says.
	Decide NetworkDecide `json:"decide,omitempty"`
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

// maxNetworkRules bounds the rules of one grant.
const maxNetworkRules = 256

// Validate reports what is missing or makes no sense. Whether the names are names is
// for policy to say, which has their one form. The zero Network is valid.
func (n Network) Validate() error {
	if len(n.Rules) == 0 {
		return nil
	}
	if len(n.Rules) > maxNetworkRules {
		return fmt.Errorf("there are %d rules, more than %d", len(n.Rules), maxNetworkRules)
	}
	for i, rule := range n.Rules {
		if err := rule.validate(); err != nil {
			return fmt.Errorf("rule %d, of %.300q: %w", i, rule.Host, err)
		}
	}
	if n.Decide != "" && n.Decide != DecideGrant && n.Decide != DecideRequest {
		return fmt.Errorf("decide is %.100q: it must be grant or request", n.Decide)
	}
	b := n.Budget
	if b.Requests < 1 || b.Bytes < 1 || b.RequestsPerS < 1 || b.Connections < 1 {
		return errors.New("there are rules, and the budget lacks requests, bytes, requests_per_s or connections")
	}
	return nil
}

func (r NetworkRule) validate() error {
	if len(r.Ports) == 0 {
		return errors.New("ports is empty")
	}
	for _, port := range r.Ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%d is not a port", port)
		}
	}
	switch r.Mode {
	case NetworkIntercept:
		return nil
	case NetworkTunnel, NetworkForward:
		if len(r.Methods) > 0 || len(r.Paths) > 0 || r.WebSocket {
			return fmt.Errorf("the mode %s carries bytes: methods, paths and websocket are for intercept", r.Mode)
		}
		return nil
	}
	return errors.New("mode is missing")
}

// Opens reports whether the rule is for that name and port, where name is in its one
// form.
func (r NetworkRule) Opens(to Destination) bool {
	return slices.Contains(r.Ports, to.Port) && r.Names(to.Host)
}

// Names reports whether the rule's host is that name, or one for all names below
// which it is. Of two rules it says so too of the narrower one's host.
func (r NetworkRule) Names(host string) bool {
	suffix, below := strings.CutPrefix(r.Host, "*")
	if below && len(suffix) > 1 && suffix[0] == '.' { // with its dot: the name itself is not below it
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return host != "" && host == r.Host
}

// EgressRequest is one request of the mode intercept, as policy is asked for it.
type EgressRequest struct {
	Host   string `json:"host"` // in its one form
	Port   int    `json:"port"`
	Method string `json:"method"`
	Path   string `json:"path"`  // as it is forwarded, without the query
	Bytes  int64  `json:"bytes"` // of the body; -1 where it is not known yet
}
