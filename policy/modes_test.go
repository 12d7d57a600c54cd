package policy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// ruled is a policy of one rule, "r.one" in the given mode, that denies what
// else would be allowed.
func ruled(mode, more string) policy.Bundle {
	return rego(`package execgate

# METADATA
# custom:
#   id: r.one
#   mode: ` + mode + `
deny contains {"code": "no", "rule": "r.one", "message": "m", "remediation": "f"}

` + more + `

decision := object.union(granted, {"effect": "deny", "reasons": deny})

granted := ` + allowDocument(nil))
}

func TestModesOfRules(t *testing.T) {
	for mode, want := range map[string]struct {
		effect             execution.Effect
		warnings, shadowed int
	}{
		"enforce": {execution.EffectDeny, 0, 0},
		"warn":    {execution.EffectAllow, 1, 0},
		"shadow":  {execution.EffectAllow, 0, 1},
	} {
		t.Run(mode, func(t *testing.T) {
			d := decide(t, ruled(mode, ""), question())
			if d.Effect != want.effect || len(d.Warnings) != want.warnings || len(d.Shadowed) != want.shadowed {
				t.Fatalf("decision is %+v", d)
			}
			if d.Allowed() && len(d.Reasons) != 0 {
				t.Errorf("an allow has the reasons %+v", d.Reasons)
			}
		})
	}
}

// One rule that is enforced denies, and the others' reasons are not the caller's.
func TestEnforcedRuleBesideOthers(t *testing.T) {
	d := decide(t, ruled("shadow", `deny contains {"code": "other", "rule": "r.two", "message": "m", "remediation": "f"}`), question())
	wantDenied(t, d, "other")
}

// A denial that does not say what would be granted cannot become an allow.
func TestModeNeedsAGrant(t *testing.T) {
	d := decide(t, rego(`package execgate

# METADATA
# custom:
#   id: r.one
#   mode: warn
deny contains {"code": "no", "rule": "r.one"}

decision := {"effect": "deny", "reasons": deny}`), question())
	wantDenied(t, d, execution.CodePolicyInvalid)
	if !strings.Contains(d.Reasons[0].Message, "mode warn") {
		t.Errorf("message is %q", d.Reasons[0].Message)
	}
}

// A denial that names an approval stands against the approval, not against an allow.
func TestModeOfADenialOfWhatNeedsApproval(t *testing.T) {
	for mode, want := range map[string]execution.Effect{
		"enforce": execution.EffectDeny,
		"warn":    execution.EffectRequireApproval,
		"shadow":  execution.EffectRequireApproval,
	} {
		t.Run(mode, func(t *testing.T) {
			bundle := rego(`package execgate

# METADATA
# custom: {id: r.one, mode: ` + mode + `}
deny contains {"code": "no", "rule": "r.one", "message": "m", "remediation": "f"}

more := {"effect": "deny", "reasons": deny, "approval": {"expires_s": 60, "roles": ["approver"]}}

decision := object.union(granted, more)

granted := ` + allowDocument(nil))
			d := decide(t, bundle, question())
			if d.Effect != want || want != execution.EffectDeny && d.Approval == nil {
				t.Fatalf("decision is %+v", d)
			}
		})
	}
}

// A denial for no reason is enforced: no mode speaks of it.
func TestDenialWithoutReasonIsEnforced(t *testing.T) {
	d := decide(t, rego(`package execgate

# METADATA
# custom: {id: r.one, mode: shadow}
unused := 1

decision := object.union({"effect": "deny"}, {"reasons": []})`), question())
	wantDenied(t, d, "denied")
}

func TestModesThatAreNone(t *testing.T) {
	for name, test := range map[string]struct{ metadata, says string }{
		"unknown":     {"{id: a, mode: audit}", "must be enforce, warn or shadow"},
		"no id":       {"{mode: warn}", "custom.id"},
		"number":      {"{id: a, mode: 1}", "must be enforce, warn or shadow"},
		"two of them": {"{id: b, mode: warn}\nx := 1\n\n# METADATA\n# custom: {id: b, mode: shadow}", "elsewhere"},
		"only one":    {"{id: b, mode: warn}\nx := 1\n\n# METADATA\n# custom: {id: b}", "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			engine, err := policy.New(policy.Config{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = engine.Activate(context.Background(), rego("package execgate\n\n# METADATA\n# custom: "+test.metadata+"\ny := 1\n\ndecision := {\"effect\": \"deny\"}"))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v: want it to say %q", err, test.says)
			}
		})
	}
}
