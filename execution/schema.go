package execution

import _ "embed"

// RecordSchema is the JSON Schema (draft 2020-12) of a Record of RecordVersion, for
// whoever reads the log with another program.
//
//go:embed record.schema.json
var RecordSchema []byte
