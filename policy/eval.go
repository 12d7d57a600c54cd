package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Evaluation is what a bundle answers to one input document.
type Evaluation struct {
	Revision string `json:"revision"`
	// Document is the answer of data.execgate.decision as JSON, whether it is a
	// valid decision or not; nil where there is none.
	Document json.RawMessage `json:"document"`
	// Decision is what the gateway makes of it.
	Decision execution.Decision `json:"decision"`
	// Cause is the error behind a decision that denies because there is no
	// valid answer. It is for the policy's author, not for callers.
	Cause string `json:"cause,omitempty"`
	// Trace has the steps of the evaluation, a line each with file and line of the
	// rule; empty unless they are asked for.
	Trace string `json:"trace,omitempty"`
	// Truncated reports whether Trace has only the first of them.
	Truncated bool `json:"trace_truncated,omitempty"`
}

// Eval asks a bundle, which need not be in force, about an input document as
// input.schema.json describes it. Fields may be missing; one that is not known,
// or given twice, is an error, as is a bundle that does not compile (a
// *BundleError). Obligations are Config.Obligations. The evaluation ends with ctx.
func Eval(ctx context.Context, bundle Bundle, obligations []string, inputJSON []byte) (Evaluation, error) {
	return eval(ctx, bundle, obligations, inputJSON, nil)
}

// EvalExplained is Eval with the steps of the evaluation.
func EvalExplained(ctx context.Context, bundle Bundle, obligations []string, inputJSON []byte) (Evaluation, error) {
	t := &tracing{full: true}
	result, err := eval(ctx, bundle, obligations, inputJSON, t)
	result.Trace, result.Truncated = t.text()
	return result, err
}

func eval(ctx context.Context, bundle Bundle, obligations []string, inputJSON []byte, t *tracing) (Evaluation, error) {
	in, value, err := readInput(inputJSON)
	if err != nil {
		return Evaluation{}, fmt.Errorf("read input: %w", err)
	}
	loaded, err := load(bundle)
	if err != nil {
		return Evaluation{}, fmt.Errorf("load policy from %s: %w", bundle.Source, err)
	}
	p, err := prepare(ctx, loaded)
	if err != nil {
		return Evaluation{}, fmt.Errorf("compile policy from %s: %w", bundle.Source, err)
	}

	cancel := topdown.NewCancel()
	stop := context.AfterFunc(ctx, cancel.Cancel)
	defer stop()
	result := Evaluation{Revision: p.revision}
	answer, failed := p.answer(ctx, value, cancel, t.tracer(bundle.Source))
	if failed == nil {
		if result.Document, err = documentJSON(answer); err != nil {
			return Evaluation{}, fmt.Errorf("encode decision document: %w", err)
		}
		doc, err := decodeDocument(answer)
		if err == nil {
			p.modes.apply(&doc)
			result.Decision = enforce(doc, in, p.revision, obligations)
			return result, nil
		}
		failed = invalid(err)
	}
	result.Decision = execution.Deny(p.revision, failed.reason)
	if failed.err != nil {
		result.Cause = failed.err.Error()
	}
	return result, nil
}

// readInput decodes an input document, both as it is enforced and as it is evaluated.
func readInput(inputJSON []byte) (*input, ast.Value, error) {
	document, err := strictJSON(inputJSON)
	if err != nil {
		return nil, nil, err
	}
	if err := plainKeys(document); err != nil {
		return nil, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(inputJSON))
	d.DisallowUnknownFields()
	var in input
	if err := d.Decode(&in); err != nil {
		return nil, nil, err
	}
	value, err := ast.InterfaceToValue(document)
	if err != nil {
		return nil, nil, err
	}
	return &in, value, nil
}

// plainKeys refuses keys in another case than those of the schema, which are all
// lower-case: encoding/json would take them for the field, and Rego would not.
func plainKeys(v any) error {
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			if err := plainKeys(element); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, value := range v {
			if strings.ContainsFunc(key, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsUpper(r) }) {
				return fmt.Errorf("unknown field %.100q", key)
			}
			if key == "args" || key == "approval" { // these have keys of others
				continue
			}
			if err := plainKeys(value); err != nil {
				return err
			}
		}
	}
	return nil
}

func documentJSON(value ast.Value) (json.RawMessage, error) {
	plain, err := ast.JSON(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(plain)
}
