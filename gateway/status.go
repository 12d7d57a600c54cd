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
	case StateDenied:
		document.Problem = st.Body
	}
	return json.Marshal(document)
}

// stateDocument is an execution without a result.
type stateDocument struct {
	ID      string            `json:"id"`
	State   State             `json:"state"`
	Outcome execution.Outcome `json:"outcome,omitempty"`
	Problem json.RawMessage   `json:"problem,omitempty"`
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
	switch st.State {
	case StateEnded:
		x.write(http.StatusOK, mediaJSON, st.Body)
		return nil
	case StateExpired:
		return &execution.Error{
			Kind: execution.KindGone, Code: "result_expired", Detail: "the execution has ended, and its result is not kept any more",
		}
	case StateFailed, StateDenied:
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
	if st.State == StateFailed {
		st.State = StateEnded
	}
	body, err := json.Marshal(stateDocument{ID: st.ID, State: st.State})
	if err != nil {
		return internal("encode state", err)
	}
	x.gin.Writer.Header().Set("Location", "/v1/executions/"+st.ID)
	x.write(http.StatusAccepted, mediaJSON, body)
	return nil
}
