package gateway

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/execgate/execgate/execution"
)

// createExecution is POST /v1/executions, in its synchronous form.
func (g *Gateway) createExecution(x *exchange) error {
	request, err := g.readExecution(x)
	if err != nil {
		return err
	}
	response, err := g.config.Service.Execute(x.ctx(), Call{
		Principal: x.principal, Request: request, RequestID: x.requestID, TraceID: x.traceID,
	})
	x.execution = response.ID
	if err != nil {
		return err
	}
	body, err := encodeExecution(response)
	if err != nil {
		return internal("encode response", err)
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

func (g *Gateway) readExecution(x *exchange) (execution.Request, error) {
	h := x.gin.Request.Header
	// To run the request as if the key were not there would break the very
	// promise the caller relies on.
	if len(h["Idempotency-Key"]) > 0 {
		return execution.Request{}, &execution.Error{
			Kind: execution.KindInvalid, Code: "idempotency_unsupported",
			Detail: "this gateway does not yet support Idempotency-Key, and will not run the request without its promise",
		}
	}
	if err := checkContentType(h); err != nil {
		return execution.Request{}, err
	}
	body, err := x.body(g.config.MaxBodyBytes)
	if err != nil {
		return execution.Request{}, err
	}
	return decodeRequest(body, g.config.MaxCodeBytes)
}

// executionDocument is the 200 body. No array in it is null.
type executionDocument struct {
	ID          string               `json:"id"`
	Outcome     execution.Outcome    `json:"outcome"`
	ExitCode    *int                 `json:"exit_code"`
	Stdout      string               `json:"stdout"`
	Stderr      string               `json:"stderr"`
	Result      json.RawMessage      `json:"result"`
	ResultError string               `json:"result_error,omitempty"`
	Truncated   execution.Truncated  `json:"truncated"`
	Artifacts   []execution.Artifact `json:"artifacts"`
	Usage       execution.Usage      `json:"usage"`
	Decision    decisionDocument     `json:"decision"`
	Leases      []execution.Lease    `json:"leases"`
	Records     []uint64             `json:"records"`
}

// decisionDocument is what of a decision its caller sees: not the grant.
type decisionDocument struct {
	Effect   execution.Effect   `json:"effect"`
	Revision string             `json:"revision"`
	Reasons  []execution.Reason `json:"reasons"`
	Clamped  []execution.Clamp  `json:"clamped"`
}

func encodeExecution(response Response) ([]byte, error) {
	r := response.Result
	document := executionDocument{
		ID: response.ID, Outcome: r.Outcome, ExitCode: r.ExitCode,
		Stdout: text(r.Stdout), Stderr: text(r.Stderr),
		Result: r.Value, ResultError: r.ValueError, Truncated: r.Truncated,
		Artifacts: array(r.Artifacts), Usage: r.Usage,
		Decision: decisionDocument{
			Effect: response.Decision.Effect, Revision: response.Decision.Revision,
			Reasons: array(response.Decision.Reasons), Clamped: array(response.Decision.Clamped),
		},
		Leases: array(response.Leases), Records: array(response.Records),
	}
	document.Usage.LimitsHit = array(r.Usage.LimitsHit)
	if r.Outcome != execution.OutcomeExited {
		document.ExitCode = nil
	}
	// The value comes from the program. One that is not JSON would spoil the
	// whole document, so it is checked here too.
	if len(r.Value) > 0 && !json.Valid(r.Value) {
		document.Result, document.ResultError = nil, "the result is not JSON"
	}
	return json.Marshal(document)
}

// text is output as a string: what is not UTF-8 becomes U+FFFD.
func text(output []byte) string { return strings.ToValidUTF8(string(output), "\uFFFD") }

// array is items, never null.
func array[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
