// Package policies is the policy the gateway ships with: Rego, its data and its
// tests. It is what is enforced where nothing else is configured, and an
// example to start from.
package policies

import "embed"

// Files is the folder: .rego files, their tests and data.
//
//go:embed *.rego data.json tokens/data.json
var Files embed.FS
