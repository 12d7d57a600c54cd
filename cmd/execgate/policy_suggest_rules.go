package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// suggestion is what rules a run would have needed, and what is to be said of them.
type suggestion struct {
	rules  []execution.NetworkRule
	budget execution.NetworkBudget
	notes  []string
}

// fragment is the suggestion as a part of a policy's data.json.
func (s suggestion) fragment(tenant string) map[string]any {
	network := map[string]any{"rules": s.rules}
	if len(s.rules) > 0 {
		network["budget"] = s.budget
	}
	return map[string]any{"tenants": map[string]any{tenant: map[string]any{"network": network}}}
}

// endpoint is a host that is carried in one way.
type endpoint struct {
	host string
	mode execution.NetworkMode
}

// used is what was sent to one port of an endpoint: the paths by method. Both are
// empty where a record names none, which only any method and any path opens.
type used map[string]map[string]bool

// opened are the codes of denials that a rule changes.
var opened = []string{"network_not_granted", "path_not_granted", "method_not_granted", "websocket_not_granted", "egress_unsupported"}

// mayMend are the codes of denials for which more than a rule is needed, and what.
var mayMend = map[string]string{
	"websocket_not_granted": "it was an upgrade to WebSocket, for which the rule needs \"websocket\": true",
	"address_refused": "the name stands for an address that is not public, or that is never reached. If it is a service of yours, the rule needs " +
		"\"private\": true, and egress.allowed_networks a network with its address",
	"name_unresolved":      "the name was not found: is it spelt right?",
	"resolve_timeout":      "the gateway's resolver did not answer",
	"too_many_addresses":   "the name has more addresses than are tried",
	"budget_invalid":       "the grant had no whole budget",
	"requests_spent":       "the budget was spent; what came after it may be missing here",
	"bytes_spent":          "the budget was spent; what came after it may be missing here",
	"rate_exceeded":        "the budget's rate was exceeded",
	"connections_exceeded": "the budget's connections were all in use",
	"cancelled":            "the run had ended",
	"audit_unavailable":    "the decision could not be recorded",
}

// leftOut are codes of denials that no rule changes, and why. Those that are not here
// are of requests with another fault than where they go.
var leftOut = map[string]string{
	"host_invalid":    "it is no host name",
	"host_is_address": "names are opened, and no addresses",
	"port_invalid":    "it is no port",
	"egress_denied":   "the rules open it, and policy denies it besides",
	"token_endpoint":  "credentials are made there; let the gateway lend one instead (tools)",
	"refusals_spent":  "it is the last denial of the run that is in the log, and what was denied after it is not known",
}

// gather is suggest at work.
type gather struct {
	ports   map[endpoint]map[int]used
	private map[endpoint]bool              // an address was
	known   map[execution.Destination]bool // that there is something of the host and port
	notes   []string
	seen    map[string]bool // notes
}

// suggest works out the rules for what was sent.
func suggest(s sent) suggestion {
	g := gather{
		ports: make(map[endpoint]map[int]used), private: make(map[endpoint]bool),
		known: make(map[execution.Destination]bool), seen: make(map[string]bool),
	}
	var unclear []execution.EgressDecided
	for _, record := range s.decided {
		d := *record.EgressDecided
		switch why := lost(d); {
		case why != "":
			g.note("sure: %s is left out, denied as %s: %s", describe(d), strconv.Quote(d.Code), why)
		case d.Mode == "":
			unclear = append(unclear, d) // another record may say how it is carried
		default:
			g.add(d, d.Mode)
		}
	}
	for _, d := range unclear {
		g.guess(d)
	}
	if len(s.decided) == 0 {
		for _, to := range s.asked {
			g.guess(execution.EgressDecided{Host: to.Host, Port: to.Port})
		}
	}
	out := suggestion{rules: g.rules(), budget: budgetOf(s)}
	out.notes = append(about(s, out), g.notes...)
	return out
}

// lost says why no rule is suggested for what a record is about; empty where one is.
func lost(d execution.EgressDecided) string {
	_, more := mayMend[d.Code]
	switch {
	case d.Cut:
		return "its method or path is longer than the log keeps"
	case d.Effect == execution.EffectAllow || more || slices.Contains(opened, d.Code):
		return ""
	}
	return cmp.Or(leftOut[d.Code], "no rule changes that")
}

// about are the notes on the run and on the rules as a whole.
func about(s sent, out suggestion) (notes []string) {
	add := func(format string, a ...any) { notes = append(notes, fmt.Sprintf(format, a...)) }
	allowed := 0
	for _, record := range s.decided {
		if record.EgressDecided.Effect == execution.EffectAllow {
			allowed++
		}
	}
	add("%d records of what the run sent out: %d allowed, %d denied", len(s.decided), allowed, len(s.decided)-allowed)
	if s.denied {
		add("judge: the execution was denied and never ran: the rules are for what it asked for, and it may need more")
	}
	if !s.over && !s.denied {
		add("judge: the run has not ended, or its end is not in the log: more may follow")
	}
	if len(s.decided) > 0 && allowed < len(s.decided) {
		add("judge: what was denied may be there because nobody should allow it")
	}
	switch {
	case len(out.rules) == 0:
		add("sure: it needs no network")
	case len(s.decided) == 0:
		add("judge: the budget is the least there is: nothing is known about it")
	default:
		add("judge: the budget is twice what the run used")
	}
	if len(out.rules) > 256 {
		add("judge: there are %d rules, and a grant may have 256: put paths of one kind together by /*", len(out.rules))
	}
	return notes
}

func (g *gather) note(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); !g.seen[text] {
		g.seen[text] = true
		g.notes = append(g.notes, text)
	}
}

// add adds what a record needs, of a mode.
func (g *gather) add(d execution.EgressDecided, mode execution.NetworkMode) {
	e := endpoint{d.Host, mode}
	if g.ports[e] == nil {
		g.ports[e] = make(map[int]used)
	}
	if g.ports[e][d.Port] == nil {
		g.ports[e][d.Port] = make(used)
	}
	of := g.ports[e][d.Port]
	if mode != execution.NetworkIntercept {
		d.Method, d.Path = "", ""
	}
	if of[d.Method] == nil {
		of[d.Method] = make(map[string]bool)
	}
	of[d.Method][d.Path] = true
	g.known[execution.Destination{Host: d.Host, Port: d.Port}] = true
	switch why := mayMend[d.Code]; {
	case why != "":
		g.note("judge: %s was denied as %s: %s", describe(d), d.Code, why)
	case d.Effect != execution.EffectAllow && d.Effect != "":
		g.note("judge: %s was denied, and the rule opens it", describe(d))
	case isPrivate(d.Address):
		g.private[e] = true
		g.note("judge: %s is at a private address, %s, which egress.allowed_networks has to have", describe(d), d.Address)
	}
	if mode == execution.NetworkIntercept && d.Method == "" {
		g.note("judge: of %s no method and no path is recorded: the rule opens all of them", describe(d))
	}
}

// webPorts are those on which requests that can be read are expected.
var webPorts = []int{80, 443, 8080, 8443}

// guess adds a record of what no rule opened, unless others of the same host and port
// say more of it.
func (g *gather) guess(d execution.EgressDecided) {
	if d.Port == 0 { // egress.ungranted_names is nxdomain
		g.note("judge: %s was looked up and not found, so that its port, 443, is a guess", strconv.Quote(d.Host))
		d.Port = 443
	}
	if d.Method == "" && g.known[execution.Destination{Host: d.Host, Port: d.Port}] {
		return
	}
	mode := execution.NetworkForward
	if d.Method != "" || slices.Contains(webPorts, d.Port) {
		mode = execution.NetworkIntercept
	}
	if d.Method == "" {
		g.note("judge: that %s is carried in the mode %s is a guess by its port", describe(d), mode)
	}
	g.add(d, mode)
}

// rules are the rules for all that was added, each opening nothing that was not used:
// a rule opens each of its ports, methods and paths with each of the others.
func (g *gather) rules() []execution.NetworkRule {
	rules := []execution.NetworkRule{}
	for _, e := range slices.SortedFunc(maps.Keys(g.ports), func(a, b endpoint) int {
		return cmp.Or(strings.Compare(a.host, b.host), strings.Compare(string(a.mode), string(b.mode)))
	}) {
		var own []execution.NetworkRule
		for _, port := range slices.Sorted(maps.Keys(g.ports[e])) {
			for _, rule := range g.ports[e][port].rules() {
				rule.Host, rule.Mode, rule.Private, rule.Ports = e.host, e.mode, g.private[e], []int{port}
				same := func(r execution.NetworkRule) bool {
					return slices.Equal(r.Methods, rule.Methods) && slices.Equal(r.Paths, rule.Paths)
				}
				if at := slices.IndexFunc(own, same); at >= 0 {
					own[at].Ports = append(own[at].Ports, port)
				} else {
					own = append(own, rule)
				}
			}
		}
		rules = append(rules, own...)
	}
	return rules
}

// rules puts methods with the same paths together.
func (u used) rules() (rules []execution.NetworkRule) {
	if u[""] != nil { // any method: the rest is within it
		return []execution.NetworkRule{{}}
	}
	for _, method := range slices.Sorted(maps.Keys(u)) {
		paths := slices.Sorted(maps.Keys(u[method]))
		if at := slices.IndexFunc(rules, func(r execution.NetworkRule) bool { return slices.Equal(r.Paths, paths) }); at >= 0 {
			rules[at].Methods = append(rules[at].Methods, method)
			continue
		}
		rules = append(rules, execution.NetworkRule{Methods: []string{method}, Paths: paths})
	}
	return rules
}

// describe names what a record is about. A program chose it, so it is quoted.
func describe(d execution.EgressDecided) string {
	to := strconv.Quote(fmt.Sprintf("%s:%d", d.Host, d.Port))
	if d.Method != "" {
		return strconv.Quote(d.Method+" "+d.Path) + " of " + to
	}
	return to
}

// isPrivate reports whether an address that was connected to, as IP:port, is one that
// rules open only with private. One that it misses makes a rule that opens less.
func isPrivate(address string) bool {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	addr := to.Addr().Unmap()
	return !addr.IsGlobalUnicast() || addr.IsPrivate() || slices.ContainsFunc(privateNetworks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// privateNetworks are those beside the ones that netip knows: carrier-grade NAT
// (RFC 6598), IETF protocol assignments (RFC 6890) and benchmarking (RFC 2544).
var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
}
