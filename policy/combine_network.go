package policy

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"

	"github.com/execgate/execgate/execution"
)

// narrowed is what both layers open, within the smaller budget. Each request is asked
// about where either layer says so.
func (n network) narrowed(by network) network {
	n.rules = meetAll(n.rules, by.rules)
	if by.decide == execution.DecideRequest {
		n.decide = by.decide
	}
	if n.budget != nil && by.budget != nil { // rules without one are incomplete
		n.budget = &execution.NetworkBudget{
			Requests:     min(n.budget.Requests, by.budget.Requests),
			Bytes:        min(n.budget.Bytes, by.budget.Bytes),
			RequestsPerS: min(n.budget.RequestsPerS, by.budget.RequestsPerS),
			Connections:  min(n.budget.Connections, by.budget.Connections),
		}
	}
	return n
}

// meetAll is what rules of both lists open, each once. There are as many pairs as the
// lists' lengths multiplied, and one list is a tenant's: of more than a grant may have,
// which is refused whatever they are, no more are looked for.
func meetAll(a, b []execution.NetworkRule) (rules []execution.NetworkRule) {
	known := make(map[string]bool)
	for _, x := range a {
		for _, y := range b {
			rule, ok := meet(x, y)
			if !ok {
				continue
			}
			text, err := json.Marshal(rule)
			if err != nil { // nothing in it can fail to be encoded
				continue
			}
			if !known[string(text)] {
				known[string(text)] = true
				rules = append(rules, rule)
			}
			if len(rules) > maxGrants {
				return rules
			}
		}
	}
	return rules
}

// meet is what both rules open: of two names the one below the other, and of ports,
// methods and paths those of both. A mode is never changed into another.
func meet(a, b execution.NetworkRule) (execution.NetworkRule, bool) {
	host, ok := narrower(a, b)
	if !ok || a.Mode != b.Mode {
		return execution.NetworkRule{}, false
	}
	ports := both(a.Ports, b.Ports)
	methods, some := bothOrAny(a.Methods, b.Methods)
	paths, others := bothOrAny(a.Paths, b.Paths)
	if len(ports) == 0 || !some || !others {
		return execution.NetworkRule{}, false
	}
	return execution.NetworkRule{
		Host: host, Ports: ports, Methods: methods, Paths: paths,
		WebSocket: a.WebSocket && b.WebSocket, Private: a.Private && b.Private, Mode: a.Mode,
	}, true
}

// narrower is the host of the one rule that the other names too.
func narrower(a, b execution.NetworkRule) (host string, ok bool) {
	switch {
	case a.Host == b.Host || b.Names(a.Host):
		return a.Host, true
	case a.Names(b.Host):
		return b.Host, true
	}
	return "", false
}

// bothOrAny is both, where an empty list stands for everything. It reports false
// where nothing is in both: an empty result would then say everything.
func bothOrAny(a, b []string) ([]string, bool) {
	switch {
	case len(a) == 0:
		return b, true
	case len(b) == 0:
		return a, true
	}
	narrow := both(a, b)
	return narrow, len(narrow) > 0
}

// narrowedCredentials are those of a whose tool by names too, for the shorter time
// and the fewer uses. What else by says of a credential it must say as a does; what
// it leaves out it leaves as it is.
func narrowedCredentials(a, by []execution.Credential) []execution.Credential {
	var narrow []execution.Credential
	for _, c := range a {
		for _, b := range by {
			if agrees(c, b) {
				c.TTLS, c.MaxUses = leastGiven(c.TTLS, b.TTLS), leastGiven(c.MaxUses, b.MaxUses)
				c.Strict = c.Strict || b.Strict
				narrow = append(narrow, c)
				break
			}
		}
	}
	return narrow
}

// agrees reports whether b is about c and says nothing else of it than c does.
func agrees(c, b execution.Credential) bool {
	same := func(is, says string) bool { return says == "" || says == is }
	return c.Tool == b.Tool && same(c.Mount, b.Mount) && same(c.Engine, b.Engine) && same(c.Path, b.Path) &&
		same(c.Role, b.Role) && same(string(c.Inject), string(b.Inject)) && same(c.FilePath, b.FilePath) && same(c.EnvName, b.EnvName) &&
		(b.VaultPolicies == nil || slices.Equal(c.VaultPolicies, b.VaultPolicies)) && (b.Bind == nil || equalBindings(c.Bind, b.Bind))
}

func equalBindings(a, b []execution.Binding) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x execution.Binding) bool {
		return !slices.ContainsFunc(b, func(y execution.Binding) bool { return reflect.DeepEqual(x, y) })
	})
}

// leastGiven is the smaller of two bounds of which zero is none.
func leastGiven(a, b int64) int64 {
	if a == 0 || b == 0 {
		return cmp.Or(a, b)
	}
	return min(a, b)
}
