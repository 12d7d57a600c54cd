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

// Check denies whatever needs a credential.
func (Unconfigured) Check(credentials []execution.Credential) error {
	if len(credentials) == 0 {
		return nil
	}
	return &execution.Error{
		Kind: execution.KindDenied,
		Reasons: []execution.Reason{{
			Code:        "vault_unconfigured",
			Message:     fmt.Sprintf("The credential of tool %q cannot be lent: this gateway has no Vault.", credentials[0].Tool),
			Rule:        "gateway.vault",
			Remediation: "Leave the tool out, or have the operator name a Vault in the gateway's configuration (vault.address; docs/vault.md).",
		}},
	}
}

// Lend succeeds only where no credential is asked for.
func (u Unconfigured) Lend(_ context.Context, loan execution.Loan) (execution.Lent, error) {
	return execution.Lent{}, u.Check(loan.Credentials)
}

// Value has nothing to give.
func (Unconfigured) Value(_ context.Context, _, tool string) (map[string]execution.Secret, execution.Lease, error) {
	return nil, execution.Lease{}, notLent(tool)
}

// Revoke has nothing to take back.
func (Unconfigured) Revoke(context.Context, string) ([]execution.Lease, error) { return nil, nil }
