package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/execgate/execgate/execution"
)

// Eraser erases what is kept of decisions and executions beside the log. What awaits
// approval the gateway erases itself.
type Eraser interface {
	// Erase erases what is selected. before is told of it, with the counts; only where
	// that returns nil is anything erased, and whatever error comes after that, Erase
	// may be called again.
	Erase(ctx context.Context, which execution.Erasure, before func(execution.Erasure) error) error
}

// maxEraseBody bounds the body of POST /v1/erasures.
const maxEraseBody = 16 << 10

// eraseTimeout bounds an erasure, with its record: a caller that hangs up does not
// leave the record without the deed.
const eraseTimeout = time.Minute

// erase is POST /v1/erasures.
func (g *Gateway) erase(x *exchange) error {
	if g.config.Eraser == nil {
		return &execution.Error{Kind: execution.KindNotFound, Code: "erasures_unavailable", Detail: "nothing can be erased here"}
	}
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(maxEraseBody)
	if err != nil {
		return err
	}
	which, err := decodeErasure(body)
	if err != nil {
		return err
	}
	if x.principal.Tenant != operatorTenant && which.Tenant == "" {
		which.Tenant = x.principal.Tenant
	}
	if !mayManage(x.principal, which.Tenant) {
		return &execution.Error{Kind: execution.KindDenied, Code: "other_tenant", Detail: "what is kept of another tenant is for its own admins to erase"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx()), eraseTimeout)
	defer cancel()
	var done struct {
		execution.Erasure
		Record uint64 `json:"record"` // its sequence number
	}
	service := g.config.Service
	err = g.config.Eraser.Erase(ctx, which, func(e execution.Erasure) error {
		pending, err := service.pendingApprovals(ctx, which)
		if err != nil {
			return err
		}
		principal := x.principal
		e.Approvals = int64(pending)
		done.Erasure = e
		done.Record, err = g.records.append(ctx, execution.Record{
			Type: execution.RecordErased, Execution: executionID(e.Execution), Principal: &principal, RequestID: x.requestID, TraceID: x.traceID, Erasure: &e,
		})
		return err
	})
	if err == nil {
		err = service.eraseApprovals(ctx, x.call(execution.Request{}), which)
	}
	if err != nil {
		return err
	}
	answer, err := json.Marshal(done)
	if err != nil {
		return internal("encode erasure", err)
	}
	x.write(http.StatusOK, mediaJSON, answer)
	return nil
}

// executionID is empty for what is the id of a session.
func executionID(id string) string {
	if execution.ValidID(execution.PrefixExecution, id) {
		return id
	}
	return ""
}

// decodeErasure reads what is to be erased, which must be something.
func decodeErasure(body []byte) (which execution.Erasure, err error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return which, f.err()
	}
	which.Execution, _ = take[string](m, "", "execution", f)
	which.Tenant, _ = take[string](m, "", "tenant", f)
	which.Subject, _ = take[string](m, "", "subject", f)
	if text, ok := take[string](m, "", "before", f); ok {
		before, err := time.Parse(time.RFC3339, text)
		if err != nil || before.IsZero() {
			f.add("/before", "must be a time such as 2030-01-31T12:00:00Z")
		}
		before = before.UTC()
		which.Before = &before
	}
	m.rest("", f)
	if which.Execution != "" && executionID(which.Execution) == "" && !execution.ValidID(execution.PrefixSession, which.Execution) {
		f.add("/execution", "must be the id of an execution or of a session")
	}
	if which.Subject != "" && which.Tenant == "" {
		f.add("/subject", "needs a tenant beside it")
	}
	if len(f.fields) == 0 && which == (execution.Erasure{}) {
		f.add("", "must have one of execution, tenant and before")
	}
	return which, f.err()
}
