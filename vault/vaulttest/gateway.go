package vaulttest

import "strings"

// GatewayPolicy is all that a gateway may do at Vault, where tokenRole makes the tokens
// of executions: what docs/vault.md has an operator write.
func GatewayPolicy(tokenRole string) string {
	return strings.ReplaceAll(`
path "auth/token/create/ROLE" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "auth/token/accessors/" { capabilities = ["list", "sudo"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
`, "ROLE", tokenRole)
}
