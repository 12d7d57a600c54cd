// Package vaulttest runs a real Vault and a real PostgreSQL for tests.
//
// Only tests import it. Both are servers of their own on a free port of the
// loopback device; they end with the test, and with the test's process however
// that ends. Vault is "vault" on PATH or the one that scripts/setup --vault
// built from tools/vault; it is under the Business Source License, is used by
// tests alone and is never part of the product.
//
// What sets up a test speaks plain net/http, so that no test proves the client
// with the client.
package vaulttest
