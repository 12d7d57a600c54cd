package policy_test

import (
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

// A decision that depends on an approval says what would be granted, and on
// which terms; it allows nothing.
func TestApprovalIsRequired(t *testing.T) {
	d := decide(t, allowing(map[string]string{
		"effect": `"require_approval"`, "approval": `{"expires_s": 600, "roles": ["lead"]}`,
	}), question())
	want := &execution.ApprovalTerms{ExpiresS: 600, Roles: []string{"lead"}}
	if d.Allowed() || d.Effect != execution.EffectRequireApproval || d.Grant.Image != digest || !cmp.Equal(want, d.Approval) {
		t.Fatalf("decision is %+v", d)
	}
}

func TestApprovalTermsThatAreNone(t *testing.T) {
	for name, test := range map[string]struct{ terms, says string }{
		"none":       {`null`, "approval is missing"},
		"no end":     {`{"roles": ["lead"]}`, "expires_s"},
		"eight days": {`{"expires_s": 691200, "roles": ["lead"]}`, "expires_s"},
		"nobody":     {`{"expires_s": 600}`, "roles"},
		"no role":    {`{"expires_s": 600, "roles": []}`, "roles"},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, allowing(map[string]string{"effect": `"require_approval"`, "approval": test.terms}), question())
			wantDenied(t, d, execution.CodePolicyInvalid)
			if !strings.Contains(d.Reasons[0].Message, test.says) {
				t.Errorf("message is %q: want it to name %q", d.Reasons[0].Message, test.says)
			}
		})
	}
}

// What must be done and is asked for under an approval denies all the same.
func TestApprovalOfWhatIsNotGranted(t *testing.T) {
	q := question()
	q.Request.Runtime = "kata"
	d := decide(t, allowing(map[string]string{
		"effect": `"require_approval"`, "approval": `{"expires_s": 600, "roles": ["lead"]}`,
	}), q)
	wantDenied(t, d, "runtime_not_granted")
}
