package policy

import (
	"cmp"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/execgate/execgate/execution"
)

// Whatever a second layer says, nothing is granted that the first does not
// grant, and nothing that the second does not grant of what it speaks of.
func TestLayersOnlyNarrow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var allowed, opened, lent int
	for range 60_000 {
		first, second := randomDocument(random, true), randomDocument(random, false)
		in := randomInput(random)
		alone := enforce(first, in, "", nil)
		d := enforce(first.narrowed(second, nil), in, "", nil)
		if d.Effect != execution.EffectAllow {
			if d.Effect == execution.EffectDeny && len(d.Reasons) == 0 {
				t.Fatalf("a denial without a reason: %+v narrowed by %+v", first, second)
			}
			continue
		}
		allowed++
		if alone.Effect != execution.EffectAllow || second.effect != execution.EffectAllow {
			t.Fatalf("allowed what %s and %s do not: %+v narrowed by %+v", alone.Effect, second.effect, first, second)
		}
		for _, limit := range execution.AllLimits() {
			got, one, other := *limit.Of(&d.Grant.Limits), *limit.Of(&alone.Grant.Limits), *limit.Of(&second.limits)
			if got > one || other != 0 && got > other {
				t.Fatalf("%s is %d: the layers grant %d and %d", limit.Name, got, one, other)
			}
		}
		g := d.Grant
		switch {
		case second.given.has(givenImage) && !slices.Contains(second.digests, g.Image),
			second.given.has(givenRuntime) && second.runtime != g.Runtime,
			second.given.has(givenEnv) && slices.ContainsFunc(g.Env, func(name string) bool { return !slices.Contains(second.envAllow, name) }),
			second.given.has(givenReuse) && second.reuse != reusePrincipal && g.Reuse != "",
			g.Reuse != "" && alone.Grant.Reuse == "",
			second.given.has(givenSession) && second.session == nil && g.Session != (execution.SessionGrant{}),
			len(g.OptionalControls) > len(alone.Grant.OptionalControls):
			t.Fatalf("granted %+v: %+v narrowed by %+v", g, first, second)
		}
		if problem := widened(g, alone.Grant, second); problem != "" {
			t.Fatalf("%s: granted %+v: %+v narrowed by %+v", problem, g, first, second)
		}
		opened += len(g.Network.Rules)
		lent += len(g.Credentials)
	}
	if allowed < 1000 || opened < 1000 || lent < 1000 {
		t.Errorf("%d were allowed with %d rules and %d credentials: too few to show anything", allowed, opened, lent)
	}
}

// widened says what of the network and the credentials in g neither alone nor, where
// it speaks of them, second grants.
func widened(g, alone execution.Grant, second document) string {
	for _, rule := range g.Network.Rules {
		for _, to := range destinations(rule) {
			of := func(rules []execution.NetworkRule) bool {
				return slices.ContainsFunc(rules, func(r execution.NetworkRule) bool {
					return r.Opens(to) && r.Mode == rule.Mode && (r.Private || !rule.Private)
				})
			}
			if !of(alone.Network.Rules) || second.given.has(givenNetwork) && !of(second.network.rules) {
				return "the network is wider"
			}
		}
	}
	if len(g.Network.Rules) > 0 {
		if g.Network.Decide != execution.DecideRequest && (alone.Network.Decide == execution.DecideRequest || second.network.decide == execution.DecideRequest) {
			return "requests are not decided"
		}
		within := func(n, of execution.NetworkBudget) bool {
			return n.Requests <= of.Requests && n.Bytes <= of.Bytes && n.RequestsPerS <= of.RequestsPerS && n.Connections <= of.Connections
		}
		if !within(g.Network.Budget, alone.Network.Budget) || second.network.budget != nil && !within(g.Network.Budget, *second.network.budget) {
			return "the budget is larger"
		}
	}
	for _, c := range g.Credentials {
		shorter := func(n, most int64) bool { return most == 0 || n != 0 && n <= most }
		if !slices.ContainsFunc(alone.Credentials, func(of execution.Credential) bool {
			less := of
			less.TTLS, less.MaxUses, less.Strict = c.TTLS, c.MaxUses, c.Strict
			return reflect.DeepEqual(c, less) && shorter(c.TTLS, of.TTLS) && shorter(c.MaxUses, of.MaxUses) && (c.Strict || !of.Strict)
		}) {
			return "a credential is none of the first layer's"
		}
		if second.given.has(givenCredentials) && !slices.ContainsFunc(second.credentials, func(of execution.Credential) bool {
			return of.Tool == c.Tool && shorter(c.TTLS, of.TTLS) && (of.Role == "" || of.Role == c.Role)
		}) {
			return "a credential is none of the second layer's"
		}
	}
	return ""
}

// destinations are those of a small world that a rule opens.
func destinations(r execution.NetworkRule) (opened []execution.Destination) {
	for _, host := range []string{"test", "a.test", "b.test", "x.a.test", "xa.test"} {
		for port := range 4 {
			if to := (execution.Destination{Host: host, Port: port}); r.Opens(to) {
				opened = append(opened, to)
			}
		}
	}
	return opened
}

// randomDocument is a document over small sets of names, so that layers meet. A
// whole one has all that an allow needs, but for some that lack or misstate one thing.
func randomDocument(r *rand.Rand, whole bool) document {
	d := document{effect: execution.EffectAllow}
	if r.IntN(8) == 0 {
		d.effect = execution.EffectDeny
	}
	some := func(field given) bool {
		if whole || r.IntN(2) == 0 {
			d.given |= field
			return true
		}
		return false
	}
	if some(givenLimits) {
		for _, limit := range execution.AllLimits() {
			if whole || r.IntN(2) == 0 {
				*limit.Of(&d.limits) = limit.Min + r.Int64N(8)
			}
		}
	}
	if some(givenImage) {
		d.digests = randomNames(r)
	}
	if some(givenRuntime) {
		d.runtime = []string{"a", "b"}[r.IntN(2)]
	}
	if some(givenEnv) {
		d.envAllow = randomNames(r)
	}
	if some(givenOptionalControls) {
		d.optionalControls = randomNames(r)
	}
	if some(givenSession) && r.IntN(2) == 0 {
		d.session = &execution.SessionGrant{IdleS: 1 + r.Int64N(5), AbsoluteS: 6 + r.Int64N(5), Max: 1 + r.Int64N(3)}
	}
	if some(givenReuse) && r.IntN(2) == 0 {
		d.reuse = reusePrincipal
	}
	if r.IntN(3) == 0 {
		d.onExceed = map[string]onExceed{"memory_mib": exceedDeny}
	}
	if some(givenNetwork) {
		d.network = randomNetwork(r)
	}
	if some(givenCredentials) {
		d.credentials = randomCredentials(r, whole)
	}
	if whole && r.IntN(8) == 0 {
		breakOne(&d, r)
	}
	return d
}

// breakOne makes a document one that nothing can be granted by.
func breakOne(d *document, r *rand.Rand) {
	switch r.IntN(4) {
	case 0:
		*execution.AllLimits()[r.IntN(len(execution.AllLimits()))].Of(&d.limits) = 0
	case 1:
		d.network.budget = nil
	case 2:
		d.network.rules = append(d.network.rules, execution.NetworkRule{Host: "a.test", Ports: []int{0, 1}, Mode: execution.NetworkForward})
	case 3:
		d.credentials = append(d.credentials, execution.Credential{Tool: "a", Inject: execution.InjectEgress})
	}
}

func randomNetwork(r *rand.Rand) (n network) {
	n.decide = []execution.NetworkDecide{"", execution.DecideGrant, execution.DecideRequest}[r.IntN(3)]
	for range r.IntN(3) {
		rule := execution.NetworkRule{
			Host: []string{"test", "a.test", "b.test", "x.a.test", "*.test", "*.a.test"}[r.IntN(6)],
			Mode: execution.NetworkForward, Private: r.IntN(2) == 0,
		}
		if r.IntN(8) == 0 {
			rule.Mode = execution.NetworkIntercept
		}
		for port := 1; port < 4; port++ {
			if r.IntN(3) > 0 {
				rule.Ports = append(rule.Ports, port)
			}
		}
		n.rules = append(n.rules, rule)
	}
	if r.IntN(8) > 0 {
		n.budget = &execution.NetworkBudget{
			Requests: 1 + r.Int64N(5), Bytes: 1 + r.Int64N(5), RequestsPerS: 1 + r.Int64N(5), Connections: 1 + r.Int64N(5),
		}
	}
	return n
}

// randomCredentials are whole, or say of a tool as little as a tenant may.
func randomCredentials(r *rand.Rand, whole bool) (list []execution.Credential) {
	for _, tool := range randomNames(r) {
		c := execution.Credential{Tool: tool, TTLS: r.Int64N(4) * 10}
		if r.IntN(2) == 0 {
			c.Role = []string{"reader", "writer"}[r.IntN(2)]
		}
		if whole {
			c.Role = cmp.Or(c.Role, "reader")
			c.Mount, c.Engine, c.VaultPolicies = "database", execution.EngineDatabase, []string{tool}
			c.Inject, c.EnvName = execution.InjectEnv, "DB"
		} else if r.IntN(8) == 0 {
			c.VaultPolicies = []string{tool, "admin"}
		}
		list = append(list, c)
	}
	return list
}

func randomNames(r *rand.Rand) []string {
	var names []string
	for _, name := range []string{"a", "b", "c"} {
		if r.IntN(4) > 0 {
			names = append(names, name)
		}
	}
	return names
}

func randomInput(r *rand.Rand) *input {
	in := &input{Action: actionInput{Image: execution.Image{Digest: "a"}}}
	if r.IntN(2) == 0 {
		in.Action.EnvNames = []string{"b"}
	}
	if r.IntN(4) == 0 {
		in.Agent.Session = "se_1"
	}
	if r.IntN(2) == 0 {
		in.Action.Limits.MemoryMiB = 1 + r.Int64N(40)
	}
	if r.IntN(4) == 0 {
		in.Action.Network = []execution.Destination{{Host: "a.test", Port: 1 + r.IntN(3)}}
	}
	if r.IntN(2) == 0 {
		in.Action.Tools = []string{"a"}
	}
	return in
}

// What must be done is done, whoever said so; of two approvals the stricter is had.
func TestObligationsAndApprovalsOfLayers(t *testing.T) {
	allow := document{effect: execution.EffectAllow, runtime: "a"}
	for _, limit := range execution.AllLimits() {
		*limit.Of(&allow.limits) = limit.Min
	}
	honoured := []string{"notify", "redact"}
	first := allow
	first.effect, first.approval = execution.EffectRequireApproval, &approval{expiresS: 60, roles: []string{"lead", "security"}}
	first.obligations = []execution.Obligation{{Type: "notify", Must: true}}
	second := document{
		effect: execution.EffectRequireApproval, approval: &approval{expiresS: 90, roles: []string{"security"}},
		obligations: []execution.Obligation{{Type: "redact", Must: true}, {Type: "notify", Must: true}},
	}
	got := first.narrowed(second, honoured)
	if got.approval.expiresS != 60 || !slices.Equal(got.approval.roles, []string{"security"}) {
		t.Errorf("approval is %+v", got.approval)
	}
	if len(got.obligations) != 2 || len(first.obligations) != 1 {
		t.Errorf("obligations are %+v of %+v", got.obligations, first.obligations)
	}
	second.approval.roles = []string{"nobody's"}
	if d := first.narrowed(second, honoured); d.approval.incomplete() == "" {
		t.Error("an approval that nobody can give is complete")
	}
	if got := allow.narrowed(second, honoured); got.effect != execution.EffectRequireApproval || got.approval == nil {
		t.Errorf("the second layer's approval is lost: %+v", got)
	}
}
