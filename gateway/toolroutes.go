package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/execgate/execgate/execution"
)

// toolDocument is a tool as callers see it: not what runs, nor what it uses.
type toolDocument struct {
	Name        string             `json:"name"`
	Description string             `json:"description"`
	Kind        execution.ToolKind `json:"kind"`
	Arguments   json.RawMessage    `json:"arguments"` // their JSON Schema
}

// listTools is GET /v1/tools: those that policy would let the caller use.
func (g *Gateway) listTools(x *exchange) error {
	tools, err := g.config.Service.ListTools(x.ctx(), x.call(execution.Request{}))
	if err != nil {
		return err
	}
	body, err := encodeTools(tools)
	if err != nil {
		return internal("encode tools", err)
	}
	x.write(http.StatusOK, mediaJSON, body)
	return nil
}

func encodeTools(tools []execution.Tool) ([]byte, error) {
	list := []toolDocument{}
	for _, t := range tools {
		list = append(list, toolDocument{t.Name, t.Description, t.Kind, t.Arguments})
	}
	return json.Marshal(struct {
		Tools []toolDocument `json:"tools"`
	}{list})
}

// callTool is POST /v1/tools/{name}/calls. It answers when the tool has ended.
func (g *Gateway) callTool(x *exchange) error {
	if len(x.gin.Request.Header["Idempotency-Key"]) > 0 {
		return &execution.Error{
			Kind: execution.KindInvalid, Code: "idempotency_key_invalid",
			Detail: "a tool cannot be called with an Idempotency-Key: leave it out",
		}
	}
	name := x.gin.Param("name")
	if !validName(name, maxToolName, "._-+") {
		return errToolName()
	}
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(min(maxToolCallBytes, g.config.MaxBodyBytes))
	if err != nil {
		return err
	}
	arguments, metadata, err := decodeToolCall(body)
	if err != nil {
		return err
	}
	response, err := g.config.Service.CallTool(x.ctx(), x.call(execution.Request{Metadata: metadata}), name, arguments)
	x.execution = response.ID
	if err != nil {
		return err
	}
	answer, err := encodeToolCall(response)
	if err != nil {
		return internal("encode response", err)
	}
	x.write(http.StatusOK, mediaJSON, answer)
	return nil
}

func errToolName() error {
	return &execution.Error{Kind: execution.KindInvalid, Code: "tool_name_invalid", Detail: "no tool can have a name like that"}
}

// toolCallDocument is the 200 body.
type toolCallDocument struct {
	ID         string            `json:"id"`
	Content    string            `json:"content"`    // what the tool wrote on standard output, or was answered
	Structured json.RawMessage   `json:"structured"` // the same, where it is JSON
	Outcome    execution.Outcome `json:"outcome"`
	ExitCode   *int              `json:"exit_code"`
	Status     *int              `json:"status"` // of a tool of the kind http: what its destination answered
	IsError    bool              `json:"is_error"`
	Truncated  bool              `json:"truncated"` // Content is not all that was written
	Decision   decisionDocument  `json:"decision"`
	Records    []uint64          `json:"records"`
}

func encodeToolCall(response Response) ([]byte, error) {
	r := response.Result
	document := toolCallDocument{
		ID: response.ID, Content: text(r.Stdout), Outcome: r.Outcome, ExitCode: r.ExitCode, Truncated: r.Truncated.Stdout,
		Decision: decisionOf(response.Decision), Records: array(response.Records),
	}
	if r.Outcome != execution.OutcomeExited {
		document.ExitCode = nil
	}
	if r.Status != 0 {
		document.Status = &r.Status
	}
	wentWell := document.ExitCode != nil && *document.ExitCode == 0 || r.Status != 0 && r.Status < http.StatusBadRequest
	document.IsError = r.Outcome != execution.OutcomeExited || !wentWell
	if !r.Truncated.Stdout {
		document.Structured = structured(r.Stdout)
	}
	return json.Marshal(document)
}

// structured is output as JSON, where it is one document that every reader takes for
// the same; else nil.
func structured(output []byte) json.RawMessage {
	output = bytes.TrimSpace(output)
	if len(output) == 0 || !json.Valid(output) || len(checkValue(output, "").fields) > 0 {
		return nil
	}
	return output
}
