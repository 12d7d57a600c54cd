package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/execgate/execgate/execution"
)

// createExecution is POST /v1/executions, in all its forms: the caller waits,
// follows a stream, or comes back.
func (g *Gateway) createExecution(x *exchange) error {
	h := x.gin.Request.Header
	key, err := idempotencyKeyOf(h)
	if err != nil {
		return err
	}
	request, err := g.readExecution(x)
	if err != nil {
		return err
	}
	call := Call{Principal: x.principal, Request: request, RequestID: x.requestID, TraceID: x.traceID}
	streams := x.media == mediaEvents
	// Who takes only a stream has no use for a 202; a preference may be ignored
	// (RFC 7240, section 2).
	async := prefersAsync(h) && !streams
	switch {
	case key != "" || async:
		return g.submitExecution(x, call, key, async)
	case streams:
		err = g.streamExecution(x, call)
	default:
		err = g.runExecution(x, call)
	}
	if a, ok := errors.AsType[*awaiting](err); ok {
		return g.writeAwaiting(x, a)
	}
	return err
}

// runExecution answers when the execution has ended.
func (g *Gateway) runExecution(x *exchange, call Call) error {
	response, err := g.config.Service.Execute(x.ctx(), call)
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

// submitExecution begins an execution that does not end with the request, or
// finds the one that the key began. One whose caller waits is not queued.
func (g *Gateway) submitExecution(x *exchange, call Call, key string, async bool) error {
	call.Queue = async
	st, err := g.config.Service.Submit(x.ctx(), call, key)
	x.execution = st.ID
	if err != nil {
		return err
	}
	if st.Again {
		x.gin.Writer.Header().Set("Idempotent-Replayed", "true")
	}
	switch {
	case st.State == StateDenied || st.State == StateExpired || st.State == StateAwaiting:
		return g.writeStanding(x, st)
	case x.media == mediaEvents:
		return g.follow(x, st, 0)
	case async:
		x.gin.Writer.Header().Set("Preference-Applied", "respond-async")
		if !st.Again {
			return g.writeState(x, st)
		}
	case !st.Again:
		if st, err = st.Wait(x.ctx()); err != nil {
			return err
		}
	}
	return g.writeStanding(x, st)
}

func (g *Gateway) readExecution(x *exchange) (execution.Request, error) {
	if err := checkContentType(x.gin.Request.Header); err != nil {
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
	Session     *leftSession         `json:"session,omitempty"`
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

// leftSession is the session that an execution ran in, as it left it.
type leftSession struct {
	ID    string                 `json:"id"`
	State execution.SessionState `json:"state"`
}

// decisionDocument is what of a decision its caller sees: not the grant.
type decisionDocument struct {
	Effect   execution.Effect   `json:"effect"`
	Revision string             `json:"revision"`
	Reasons  []execution.Reason `json:"reasons"`
	Clamped  []execution.Clamp  `json:"clamped"`
	Warnings []execution.Reason `json:"warnings,omitempty"`
}

// decisionOf leaves out what is not for callers: the grant and what rules in the
// mode shadow said.
func decisionOf(d execution.Decision) decisionDocument {
	return decisionDocument{Effect: d.Effect, Revision: d.Revision, Reasons: array(d.Reasons), Clamped: array(d.Clamped), Warnings: d.Warnings}
}

func encodeExecution(response Response) ([]byte, error) {
	r := response.Result
	document := executionDocument{
		ID: response.ID, Outcome: r.Outcome, ExitCode: r.ExitCode,
		Stdout: text(r.Stdout), Stderr: text(r.Stderr),
		Result: r.Value, ResultError: r.ValueError, Truncated: r.Truncated,
		Artifacts: array(r.Artifacts), Usage: r.Usage,
		Decision: decisionOf(response.Decision),
		Leases:   array(response.Leases), Records: array(response.Records),
	}
	if response.Session != "" {
		document.Session = &leftSession{response.Session, r.Session}
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
