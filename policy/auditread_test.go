package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

// reading is a question about reading the log that the shipped policy allows.
func reading() execution.Question {
	q := question()
	q.Principal.Roles = []execution.Role{execution.RoleAuditor}
	return execution.Question{ID: "rq_1", Time: q.Time, Principal: q.Principal, Action: execution.ActionAuditRead}
}

// Reading needs no grant.
func TestReadingIsAnEffectAndReasons(t *testing.T) {
	d := decide(t, shipped(), reading())
	want := execution.Decision{Effect: execution.EffectAllow, Reasons: []execution.Reason{}, Clamped: []execution.Clamp{}, Revision: d.Revision}
	if diff := cmp.Diff(want, d); diff != "" || d.Revision == "" {
		t.Errorf("decided (-want +got):\n%s", diff)
	}
	caller := reading()
	caller.Principal.Roles = []execution.Role{execution.RoleCaller}
	wantDenied(t, decide(t, shipped(), caller), "audit_not_granted")
	stranger := reading()
	stranger.Principal.Tenant = "nobody"
	wantDenied(t, decide(t, shipped(), stranger), "audit_not_granted")
}

// Nothing but an allow without conditions lets read.
func TestReadingHasNoConditions(t *testing.T) {
	for document, code := range map[string]string{
		`{"effect": "require_approval", "reasons": [], "approval": {"expires_s": 60, "roles": ["approver"]}}`: execution.CodePolicyUnsupported,
		`{"effect": "allow", "obligations": [{"type": "anything", "must": true}]}`:                            execution.CodePolicyUnsupported,
		`{"effect": "allow", "unknown": 1}`:                                                                   execution.CodePolicyInvalid,
		`{"effect": "deny", "reasons": []}`:                                                                   "denied",
	} {
		wantDenied(t, decide(t, answer(document), reading()), code)
	}
	bundle := answer(`{"effect": "allow", "obligations": [{"type": "anything", "must": false}]}`)
	if d := decide(t, bundle, reading()); !d.Allowed() {
		t.Errorf("an obligation that need not be met: %+v", d)
	}
}

// A policy of before, which does not know the kind, denies.
func TestReadingIsDeniedByAPolicyThatDoesNotKnowIt(t *testing.T) {
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	text := string(files["principal.rego"])
	const kinds = `, "egress", "audit_read"}`
	if strings.Count(text, kinds) != 1 {
		t.Fatal("the shipped policy has no such rule")
	}
	files["principal.rego"] = []byte(strings.Replace(text, kinds, `, "egress"}`, 1))
	bundle := shipped()
	bundle.Files = files
	q := reading()
	q.Time = time.Unix(1_700_000_000, 0)
	wantDenied(t, decide(t, bundle, q), "action_not_granted")
}

// Each layer can deny reading, and none can allow it alone; a rule in the mode warn says
// so and does not.
func TestLayersOfReading(t *testing.T) {
	for name, test := range map[string]struct {
		own   string
		codes []string // nil: allowed
	}{
		"none":                  {},
		"a tenant's allow":      {own: `{"effect": "allow"}`},
		"a tenant's denial":     {own: `{"effect": "deny", "reasons": [` + local + `]}`, codes: []string{"local"}},
		"a tenant's approval":   {own: `{"effect": "require_approval", "approval": {"expires_s": 60, "roles": ["a"]}}`, codes: []string{"policy_unsupported"}},
		"a tenant's obligation": {own: `{"effect": "allow", "obligations": [{"type": "redact"}]}`, codes: []string{"policy_unsupported"}},
		"a tenant's nonsense":   {own: `{"effect": 1}`, codes: []string{"policy_invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: &workers{}, Obligations: []string{"redact"}}, shipped())
			if test.own != "" {
				if _, err := engine.ActivateTenant(t.Context(), "default", answer(test.own)); err != nil {
					t.Fatal(err)
				}
			}
			ceilings := policy.Ceilings{Ceiling: policy.Ceiling{Images: []string{}, Runtimes: []string{}, Tools: []string{}, NoNetwork: true}}
			if err := engine.SetCeilings(ceilings); err != nil {
				t.Fatal(err)
			}
			d := engine.Decide(t.Context(), reading())
			if test.codes == nil {
				if !d.Allowed() {
					t.Errorf("denied: %+v", d.Reasons)
				}
				return
			}
			wantDenied(t, d, test.codes...)
		})
	}
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	files["warn.rego"] = []byte(`package execgate

# METADATA
# custom:
#   id: local.warn
#   mode: warn
#   code: local
#   message: Not yet.
#   remediation: Soon.
deny contains reason(rego.metadata.rule(), "", "") if input.principal.tenant == "default"
`)
	bundle := shipped()
	bundle.Files = files
	if d := decide(t, bundle, reading()); !d.Allowed() || len(d.Warnings) != 1 || d.Warnings[0].Code != "local" {
		t.Errorf("%s: %+v with %+v", d.Effect, d.Reasons, d.Warnings)
	}
	caller := reading()
	caller.Principal.Roles = []execution.Role{execution.RoleCaller}
	wantDenied(t, decide(t, bundle, caller), "audit_not_granted")
}
