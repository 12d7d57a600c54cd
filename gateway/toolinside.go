package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/execgate/execgate/execution"
)

// CallToolFrom calls a tool for the program of job, which runs: for its principal, as one
// more execution, whose record names job's as its parent. arguments is the body that the
// program has sent, as it is. The call ends with ctx, and never waits for a slot: where
// there is none it is refused, since the program may hold the last one.
//
// The answer is that of POST /v1/tools/{name}/calls: its status, and a document, which
// from 400 on is a problem. Pointers in it are into arguments.
func (s *Service) CallToolFrom(ctx context.Context, job execution.Job, name string, arguments []byte) (status int, document []byte) {
	response, err := s.callFrom(ctx, job, name, arguments)
	if err == nil {
		document, err = encodeToolCall(response)
	}
	return s.answerFrom(ctx, job, response.ID, document, err)
}

func (s *Service) callFrom(ctx context.Context, job execution.Job, name string, arguments []byte) (Response, error) {
	if !validName(name, maxToolName, "._-+") {
		return Response{}, errToolName()
	}
	if len(arguments) > maxToolCallBytes {
		return Response{}, errBodyTooLarge(maxToolCallBytes)
	}
	f := &faults{}
	if splitObject(arguments, "", f) == nil {
		return Response{}, f.err()
	}
	value := jsontext.Value(bytes.Clone(arguments))
	if err := checkValue(value, "").err(); err != nil {
		return Response{}, err
	}
	if err := value.Compact(); err != nil {
		return Response{}, internal("compact arguments", err)
	}
	called := s.toolCall(name, json.RawMessage(value))
	called.parent = job.ID
	response, err := s.callTool(ctx, callOf(job), called)
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindInvalid {
		for i := range e.Fields {
			e.Fields[i].Pointer = strings.TrimPrefix(e.Fields[i].Pointer, "/arguments")
		}
	}
	return response, err
}

// ListToolsFrom is GET /v1/tools for the principal of job, whose program asks.
func (s *Service) ListToolsFrom(ctx context.Context, job execution.Job) (status int, document []byte) {
	tools, err := s.ListTools(ctx, callOf(job))
	if err == nil {
		document, err = encodeTools(tools)
	}
	return s.answerFrom(ctx, job, "", document, err)
}

// callOf is a call by the principal that asked for job, which claims what it did then: of
// that request, and its trace.
func callOf(job execution.Job) Call {
	return Call{
		Principal: job.Principal(), RequestID: job.RequestID, TraceID: job.TraceID,
		Request: execution.Request{Metadata: job.Metadata},
	}
}

func (s *Service) answerFrom(ctx context.Context, job execution.Job, id string, document []byte, err error) (int, []byte) {
	if err == nil {
		return http.StatusOK, document
	}
	p := problemOf(err, "", id)
	if p.Status >= http.StatusInternalServerError {
		s.log.ErrorContext(ctx, "a program's call of a tool", "parent", job.ID, "execution", id, "kind", execution.KindOf(err), "error", err)
	}
	if document, err = json.Marshal(p); err != nil { // nothing in it can fail to be encoded
		return http.StatusInternalServerError, []byte(`{"type":"` + problemType + `internal","status":500}`)
	}
	return p.Status, document
}
