// Package vault pins the Vault server that the tests of the credentials run
// against: scripts/setup --vault builds ./server where PATH has no recent one.
// This package is empty, so that checking it builds nothing.
//
// Vault is under the Business Source License 1.1. It is for tests alone: the
// product does not import it, and nothing that is shipped contains it. Of the
// replace directives in its own go.mod, which do not count here, those are
// repeated that do not name its own folders. Its version 1.21.4 does not build
// with the sdk that it names.
package vault
