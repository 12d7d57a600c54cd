package execution

import "encoding/json"

// Explanation is a decision and how it came about.
type Explanation struct {
	Decision Decision `json:"decision"`
	// Input is the document that policy read, exactly.
	Input json.RawMessage `json:"input,omitempty"`
	// Trace are the steps of the evaluation, a line each, where they were asked
	// for. It is for those who write policy, not for callers.
	Trace string `json:"trace,omitempty"`
	// Truncated says that the trace had more lines than are kept.
	Truncated bool `json:"truncated,omitempty"`
}
