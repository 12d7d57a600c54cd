package policy

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// InputJSON is the document that policy reads for a question, as an Engine with
// that Config evaluates it; the same question gives the same bytes. The reason is
// why there is none.
func InputJSON(question execution.Question, config Config) (json.RawMessage, *execution.Reason) {
	in, refusal := newInput(question, config)
	if refusal != nil {
		return nil, refusal
	}
	text, err := in.encode()
	if err != nil {
		return nil, &broken(fmt.Errorf("encode input: %w", err)).reason
	}
	return text, nil
}

// recordedInput reads a document of InputJSON, both as it is enforced and as it is
// evaluated. Where this program would write the document in another way, it is
// evaluated as it stands and not as it would be.
func recordedInput(text []byte) (*input, ast.Value, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	in := new(input)
	if err := d.Decode(in); err != nil {
		return nil, nil, fmt.Errorf("read recorded input: %w", err)
	}
	if again, err := in.encode(); err == nil && bytes.Equal(again, text) {
		if err := in.Action.readArgs(); err != nil {
			return nil, nil, fmt.Errorf("read recorded input: %w", err)
		}
		return in, in.value(), nil
	}
	return readInput(text)
}
