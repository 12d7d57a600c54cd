package policy_test

import (
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// A policy sees the approval that a request resumes with, and none where there is
// none.
func TestApprovalIsInTheInput(t *testing.T) {
	rules := rego(`package execgate
decision := {"effect": "deny", "reasons": [{"code": input.context.approval.by, "message": input.context.approval.comment}]} if input.context.approval
else := {"effect": "deny", "reasons": [{"code": "no_approval"}]}`)
	q := question()
	if d := decide(t, rules, q); len(d.Reasons) != 1 || d.Reasons[0].Code != "no_approval" {
		t.Errorf("%+v", d)
	}
	q.Approval = &execution.ApprovalGiven{ID: "ap_1", By: "ak_9", At: time.Now(), Comment: "fine", RequestSHA256: q.RequestSHA256}
	if d := decide(t, rules, q); len(d.Reasons) != 1 || d.Reasons[0].Code != "ak_9" || d.Reasons[0].Message != "fine" {
		t.Errorf("%+v", d)
	}
}
