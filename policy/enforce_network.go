package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/execgate/execgate/execution"
)

// incomplete says what of the network an allow lacks, or what makes no sense.
func (n network) incomplete() string {
	if len(n.rules) == 0 {
		return ""
	}
	if n.budget == nil {
		return "network.rules opens destinations, and network.budget is missing"
	}
	if err := (execution.Network{Rules: n.rules, Budget: *n.budget}).Validate(); err != nil {
		return "network: " + err.Error()
	}
	for i, rule := range n.rules {
		if problem := hostOf(rule); problem != "" {
			return fmt.Sprintf("network.rules[%d].host is %.300q, %s", i, rule.Host, problem)
		}
	}
	return ""
}

// hostOf says why a rule's host is none: what is compared has one form.
func hostOf(rule execution.NetworkRule) string {
	name, wildcard := strings.CutPrefix(rule.Host, "*.")
	if wildcard && rule.Mode == execution.NetworkForward {
		return "and the mode forward is for one name"
	}
	if _, err := netip.ParseAddr(name); err == nil || endsInNumber(name) {
		return "an address: destinations are opened by name"
	}
	if one, err := normaliseHost(name); err != nil || one != name {
		return "not a name in lower case and ASCII, without a dot at its end"
	}
	return ""
}

// endsInNumber reports whether some would read name as an IPv4 address, in decimal,
// octal, hexadecimal or a short form (WHATWG URL, "ends in a number").
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.HasPrefix(last, "0x") || last != "" && strings.Trim(last, "0123456789") == ""
}

// sharedPlace says which two of the credentials that an execution is lent would be put
// into one variable or file. Their fields make the variables DB_…: those of DB_A could
// be among those of DB.
func sharedPlace(lent []execution.Credential) string {
	for i, a := range lent {
		for _, b := range lent[:i] {
			for _, pair := range [][2]execution.Credential{{a, b}, {b, a}} {
				outer, inner := pair[0], pair[1]
				switch {
				case outer.EnvName != "" && strings.HasPrefix(inner.EnvName+"_", outer.EnvName+"_"):
					return fmt.Sprintf("the variables of the credentials of the tools %q and %q begin with %q", outer.Tool, inner.Tool, outer.EnvName)
				case outer.FilePath != "" && strings.HasPrefix(inner.FilePath+"/", outer.FilePath+"/"):
					return fmt.Sprintf("the credentials of the tools %q and %q are both in the file %q", outer.Tool, inner.Tool, outer.FilePath)
				}
			}
		}
	}
	return ""
}
