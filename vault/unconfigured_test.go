package vault_test

import (
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

func TestWithoutVaultNothingIsLent(t *testing.T) {
	var lender vault.Unconfigured
	if lent, err := lender.Lend(t.Context(), execution.Loan{Execution: "ex_1"}); err != nil || len(lent.Leases) != 0 {
		t.Fatalf("an execution without credentials: %v, %v", lent, err)
	}
	_, err := lender.Lend(t.Context(), execution.Loan{Execution: "ex_1", Credentials: []execution.Credential{{Tool: "github"}}})
	if execution.KindOf(err) != execution.KindDenied {
		t.Fatalf("got %v, want a denial", err)
	}
	if r := err.(*execution.Error).Reasons[0]; r.Code != "vault_unconfigured" || !strings.Contains(r.Remediation, "vault.address") {
		t.Errorf("the reason %+v does not say what to configure", r)
	}
	if _, _, err := lender.Value(t.Context(), "ex_1", "github"); execution.KindOf(err) != execution.KindDenied {
		t.Errorf("a use: %v, want a denial", err)
	}
	if leases, err := lender.Revoke(t.Context(), "ex_1"); err != nil || len(leases) != 0 {
		t.Fatalf("revoke: %v, %v", leases, err)
	}
}
