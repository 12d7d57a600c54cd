package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/execgate/execgate/execution"
)

// Whatever a second layer says, nothing is granted that the first does not
// grant, and nothing that the second does not grant of what it speaks of.
func TestLayersOnlyNarrow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 200_000 {
		first, second := randomDocument(random, true), randomDocument(random, false)
		in := randomInput(random)
		alone := enforce(first, in, "", nil)
		d := enforce(first.narrowed(second), in, "", nil)
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
	}
	if allowed < 1000 {
		t.Errorf("%d were allowed: too few to show anything", allowed)
	}
}

// randomDocument is a document over small sets of names, so that layers meet. A
// whole one has all that an allow needs.
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
	return d
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
	return in
}

// What must be done is done, whoever said so; of two approvals the stricter is had.
func TestObligationsAndApprovalsOfLayers(t *testing.T) {
	first := document{
		effect: execution.EffectRequireApproval, approval: &approval{expiresS: 60, roles: []string{"lead", "security"}},
		obligations: []execution.Obligation{{Type: "notify", Must: true}},
	}
	second := document{
		effect: execution.EffectRequireApproval, approval: &approval{expiresS: 90, roles: []string{"security"}},
		obligations: []execution.Obligation{{Type: "redact", Must: true}, {Type: "notify", Must: true}},
	}
	got := first.narrowed(second)
	if got.approval.expiresS != 60 || !slices.Equal(got.approval.roles, []string{"security"}) {
		t.Errorf("approval is %+v", got.approval)
	}
	if len(got.obligations) != 2 || len(first.obligations) != 1 {
		t.Errorf("obligations are %+v of %+v", got.obligations, first.obligations)
	}
	second.approval.roles = []string{"nobody's"}
	if d := first.narrowed(second); d.approval.incomplete() == "" {
		t.Error("an approval that nobody can give is complete")
	}
	allow := document{effect: execution.EffectAllow}
	if got := allow.narrowed(second); got.effect != execution.EffectRequireApproval || got.approval == nil {
		t.Errorf("the second layer's approval is lost: %+v", got)
	}
}
