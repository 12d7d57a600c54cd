// Package vault lends short-lived credentials to executions and takes them
// back.
package vault

import (
	"context"
	"fmt"

	"github.com/execgate/execgate/execution"
)

// Unconfigured is the lender of a gateway that has no Vault: it has nothing to
// lend, and says so.
type Unconfigured struct{}

// Lend succeeds only where no credential is asked for.
func (Unconfigured) Lend(_ context.Context, loan execution.Loan) (execution.Lent, error) {
	if len(loan.Credentials) == 0 {
		return execution.Lent{}, nil
	}
	return execution.Lent{}, &execution.Error{
		Kind: execution.KindDenied,
		Reasons: []execution.Reason{{
			Code:        "vault_unconfigured",
			Message:     fmt.Sprintf("The credential of tool %q cannot be lent: this gateway has no Vault.", loan.Credentials[0].Tool),
			Rule:        "gateway.vault",
			Remediation: "Leave the tool out: this gateway cannot lend credentials.",
		}},
	}
}

// Revoke has nothing to take back.
func (Unconfigured) Revoke(context.Context, string) ([]execution.Lease, error) { return nil, nil }
