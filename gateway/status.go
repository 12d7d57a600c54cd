package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/execgate/execgate/execution"
)

// showExecution is GET /v1/executions/{id}: its id and state, and when it has
// ended all of the 200 body beside them, or the problem that it ended with.
func (g *Gateway) showExecution(x *exchange) error {
	tenant := x.principal.Tenant
	if !g.readers.take(tenant) {
		return errTooManyReaders()
	}
	defer g.readers.give(tenant)
	st, err := g.config.Service.Look(x.ctx(), x.principal, x.gin.Param("id"))
	if err != nil {
		return err
	}
	x.execution = st.ID
	body, err := encodeStanding(st)
	if err != nil {
		return internal("encode execution", err)
	}
	x.write(http.StatusOK, mediaJSON, body)
	return nil
}

// encodeStanding is the document of GET /v1/executions/{id}.
func encodeStanding(st Standing) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(st.Body, []byte("{")); ok && st.State == StateEnded {
		return append([]byte(`{"state":"ended",`), rest...), nil
	}
	document := stateDocument{ID: st.ID, State: st.State}
	switch st.State {
	case StateFailed:
		document.State, document.Outcome, document.Problem = StateEnded, execution.OutcomeEngineFailed, st.Body
	case StateDenied, StateExpired:
		document.Problem = st.Body
	case StateAwaiting:
		if err := json.Unmarshal(st.Body, &document.awaiting); err != nil {
			return nil, err
		}
	}
	return json.Marshal(document)
}

// stateDocument is an execution without a result.
type stateDocument struct {
	ID      string            `json:"id"`
	State   State             `json:"state"`
	Outcome execution.Outcome `json:"outcome,omitempty"`
	Problem json.RawMessage   `json:"problem,omitempty"`
	*awaiting
}

// cancelExecution is DELETE /v1/executions/{id}. 204 says that the execution is
// cancelled and that this is recorded, also when it is asked again; 202 that it
// takes its time to end; 409 that it had come to another end before.
func (g *Gateway) cancelExecution(x *exchange) error {
	id := x.gin.Param("id")
	ended, err := g.config.Service.Cancel(x.ctx(), x.principal, id)
	if err != nil {
		return err
	}
	x.execution = id
	if !ended {
		return g.writeState(x, Standing{ID: id, State: StateRunning})
	}
	x.write(http.StatusNoContent, "", nil)
	return nil
}

// writeStanding answers a POST with what its execution has come to: its result
// when it has ended, its problem where it has one, and its state before that.
func (g *Gateway) writeStanding(x *exchange, st Standing) error {
	switch {
	case st.State == StateEnded:
		x.write(http.StatusOK, mediaJSON, st.Body)
		return nil
	case st.State == StateExpired && len(st.Body) == 0:
		return &execution.Error{
			Kind: execution.KindGone, Code: "result_expired", Detail: "the execution has ended, and its result is not kept any more",
		}
	case st.State == StateFailed, st.State == StateDenied, st.State == StateExpired:
		var p problem
		if err := json.Unmarshal(st.Body, &p); err != nil {
			return internal("read problem", err)
		}
		p.Instance = x.requestID
		if st.Again {
			p.RetryAfterMS = 0 // it stays as it is, however often it is asked
		}
		x.err = &execution.Error{Kind: kindOfProblem(p), Code: p.Code}
		x.writeProblem(p)
		return nil
	default:
		return g.writeState(x, st)
	}
}

// writeState answers 202 with the state, and where to look for more.
func (g *Gateway) writeState(x *exchange, st Standing) error {
	document := stateDocument{ID: st.ID, State: st.State}
	switch st.State {
	case StateFailed:
		document.State = StateEnded
	case StateAwaiting:
		if err := json.Unmarshal(st.Body, &document.awaiting); err != nil {
			return internal("read state", err)
		}
	}
	body, err := json.Marshal(document)
	if err != nil {
		return internal("encode state", err)
	}
	x.gin.Writer.Header().Set("Location", "/v1/executions/"+st.ID)
	x.write(http.StatusAccepted, mediaJSON, body)
	return nil
}

// writeAwaiting answers 202 with what the execution awaits: it goes on without its
// caller.
func (g *Gateway) writeAwaiting(x *exchange, a *awaiting) error {
	body, err := json.Marshal(a)
	if err != nil {
		return internal("encode state", err)
	}
	return g.writeState(x, Standing{ID: a.ID, State: StateAwaiting, Body: body})
}
