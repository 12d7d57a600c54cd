package egress

import (
	"errors"

	"github.com/execgate/execgate/execution"
)

// Codes of denials, as records and metrics have them.
const (
	codeHostInvalid   = "host_invalid"
	codeHostIsAddress = "host_is_address"
	codePortInvalid   = "port_invalid"
	codeNotGranted    = "network_not_granted" // policy says the same of what is asked for beforehand
	codeUnsupported   = "egress_unsupported"  // the rule's mode is none that this gateway carries
	codeBudgetInvalid = "budget_invalid"

	codeConnectionsExceeded = "connections_exceeded"
	codeRequestsSpent       = "requests_spent"
	codeRateExceeded        = "rate_exceeded"
	codeBytesSpent          = "bytes_spent" // also an end

	codeNameUnresolved   = "name_unresolved"
	codeResolveTimeout   = "resolve_timeout"
	codeTooManyAddresses = "too_many_addresses"
	codeAddressRefused   = "address_refused"

	codeRefusalsSpent = "refusals_spent" // the last refusal that is recorded
)

// decide finds the rule that opens to. host is the name in its one form, or where
// it has none the empty string. Without a rule, or with one that nothing is
// carried by, code says why.
func decide(n execution.Network, to execution.Destination) (host string, rule execution.NetworkRule, code string) {
	host, err := normaliseHost(to.Host)
	switch {
	case err != nil:
		return "", rule, hostCode(err)
	case to.Port < 1 || to.Port > 65535:
		return host, rule, codePortInvalid
	}
	rule, ok := match(n.Rules, execution.Destination{Host: host, Port: to.Port})
	if !ok {
		return host, rule, codeNotGranted
	}
	switch rule.Mode {
	case execution.NetworkForward, execution.NetworkIntercept, execution.NetworkTunnel:
		return host, rule, ""
	}
	return host, rule, codeUnsupported
}

// hostCode is the code for a name of which normaliseHost says err; where that is nil
// nothing is wrong with it but that no rule is for it.
func hostCode(err error) string {
	switch {
	case errors.Is(err, errIsAddress):
		return codeHostIsAddress
	case err != nil:
		return codeHostInvalid
	}
	return codeNotGranted
}

// match returns the rule for to, whose host is normalised. One that names the host
// comes before one for all names below another; of the same kind the first counts.
func match(rules []execution.NetworkRule, to execution.Destination) (found execution.NetworkRule, ok bool) {
	for _, r := range rules {
		switch {
		case !r.Opens(to):
		case r.Host == to.Host:
			return r, true
		case !ok && r.Mode != execution.NetworkForward: // a forward is for one name
			found, ok = r, true
		}
	}
	return found, ok
}
