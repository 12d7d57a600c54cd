package policy

import (
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Invariant 2: a panic of the evaluator denies and does not end the process.
func TestPanicDenies(t *testing.T) {
	unprepared := &policy{} // its query has nothing to evaluate
	result := unprepared.evaluate(ast.NewObject(), topdown.NewCancel(), nil)
	if result.failed == nil || result.failed.reason.Code != execution.CodePolicyError || result.failed.err == nil {
		t.Fatalf("result is %+v", result)
	}
}
