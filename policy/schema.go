package policy

import (
	_ "embed"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// InputSchema is the JSON Schema (draft 7) of the input document: what a
// policy may rely on. Policies are type-checked against it.
//
//go:embed input.schema.json
var InputSchema string

// inputSchema is InputSchema as the Rego compiler takes it.
func inputSchema() *ast.SchemaSet {
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, util.MustUnmarshalJSON([]byte(InputSchema)))
	return set
}
