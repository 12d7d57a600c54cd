package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// The bounds of what is asked about approvals.
const (
	maxApprovalBody = 16 << 10
	maxApprovalList = 100
	maxApprovalWait = 60 * time.Second
)

// approvalDocument is an approval as it is shown.
type approvalDocument struct {
	ID        string                  `json:"id"`
	Execution string                  `json:"execution"`
	State     execution.ApprovalState `json:"state"`
	Requester string                  `json:"requester"` // subject
	Created   time.Time               `json:"created"`
	Expires   time.Time               `json:"expires"`
	By        string                  `json:"by,omitempty"`
	At        time.Time               `json:"at,omitzero"`
	Comment   string                  `json:"comment,omitempty"`
	Why       string                  `json:"why,omitempty"`
	approvalAbout
	// Request is what was asked, in the words of POST /v1/executions but without the
	// values of variables: for those who may approve it, while it is pending.
	Request *execution.Request `json:"request,omitempty"`
}

func approvalDocumentOf(a StoredApproval) approvalDocument {
	d := approvalDocument{
		ID: a.ID, Execution: a.Execution, State: a.State, Requester: a.Subject, Created: a.Created, Expires: a.Expires,
		By: a.By, At: a.At, Comment: a.Comment, Why: a.Why,
	}
	_ = json.Unmarshal(a.About, &d.approvalAbout) // it is JSON of ours; what is not is left out
	d.Roles, d.Reasons, d.EnvNames, d.Network, d.Tools = array(d.Roles), array(d.Reasons), array(d.EnvNames), array(d.Network), array(d.Tools)
	return d
}

// listApprovals is GET /v1/approvals: those of the caller's tenant, in the order
// they were asked for. With wait it is answered when there is one, or none in time.
func (g *Gateway) listApprovals(x *exchange) error {
	query, wait, err := x.approvalQuery()
	if err != nil {
		return err
	}
	tenant := x.principal.Tenant
	if !g.readers.take(tenant) {
		return errTooManyReaders()
	}
	defer g.readers.give(tenant)
	var list []StoredApproval
	err = g.config.Service.await(x.ctx(), wait, func(ctx context.Context) (bool, error) {
		list, err = g.config.Service.listApprovals(ctx, query)
		return len(list) > 0, err
	})
	if err != nil {
		return err
	}
	more := len(list) > query.Most-1
	documents := []approvalDocument{}
	for _, a := range list[:min(len(list), query.Most-1)] {
		documents = append(documents, approvalDocumentOf(a))
	}
	return x.writeJSON(http.StatusOK, struct {
		Approvals []approvalDocument `json:"approvals"`
		More      bool               `json:"more"` // there are later ones; ask again with after
	}{documents, more})
}

// showApproval is GET /v1/approvals/{id}. With wait it is answered when the
// approval is not pending any more, or still is after that time.
func (g *Gateway) showApproval(x *exchange) error {
	_, wait, err := x.approvalQuery("wait")
	if err != nil {
		return err
	}
	tenant := x.principal.Tenant
	if !g.readers.take(tenant) {
		return errTooManyReaders()
	}
	defer g.readers.give(tenant)
	var a StoredApproval
	err = g.config.Service.await(x.ctx(), wait, func(ctx context.Context) (bool, error) {
		a, err = g.config.Service.visible(ctx, x.principal, x.gin.Param("id"))
		return a.State != execution.ApprovalPending, err
	})
	if err != nil {
		return err
	}
	x.execution = a.Execution
	d := approvalDocumentOf(a)
	var held heldRequest
	if a.Request != nil && json.Unmarshal(a.Request, &held) == nil && mayApprove(x.principal, held.Roles) {
		for name := range held.Request.Env {
			held.Request.Env[name] = ""
		}
		d.Request = &held.Request
	}
	return x.writeJSON(http.StatusOK, d)
}

// settleApproval is POST /v1/approvals/{id}.
func (g *Gateway) settleApproval(x *exchange) error {
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(maxApprovalBody)
	if err != nil {
		return err
	}
	approve, comment, err := decodeVerdict(body)
	if err != nil {
		return err
	}
	settled, err := g.config.Service.SettleApproval(x.ctx(), x.call(execution.Request{}), x.gin.Param("id"), approve, comment)
	if err != nil {
		return err
	}
	x.execution = settled.Approval.Execution
	answer := struct {
		approvalDocument
		ExecutionState State           `json:"execution_state,omitempty"`
		Problem        json.RawMessage `json:"problem,omitempty"` // why it does not run after all
	}{approvalDocument: approvalDocumentOf(settled.Approval), ExecutionState: settled.Execution.State}
	if answer.ExecutionState == StateFailed {
		answer.ExecutionState = StateEnded
	}
	if settled.Execution.State == StateDenied {
		answer.Problem = settled.Execution.Body
	}
	return x.writeJSON(http.StatusOK, answer)
}

func decodeVerdict(body []byte) (approve bool, comment string, err error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return false, "", f.err()
	}
	decision, present := take[string](m, "", "decision", f)
	if decision != "approve" && decision != "deny" && (present || len(f.fields) == 0) && len(f.fields) == 0 {
		f.add("/decision", "must be approve or deny")
	}
	comment, _ = take[string](m, "", "comment", f)
	if !fits(comment, execution.MaxApprovalComment) || !utf8.ValidString(comment) {
		f.addf("/comment", "must take at most %d bytes", execution.MaxApprovalComment)
	}
	m.rest("", f)
	return decision == "approve", comment, f.err()
}

// approvalQuery reads the query of the request, of which the names allowed may
// stand in it: all of them where none is named.
func (x *exchange) approvalQuery(allowed ...string) (q ApprovalQuery, wait time.Duration, err error) {
	f := &faults{}
	values, err := url.ParseQuery(x.gin.Request.URL.RawQuery)
	if err != nil {
		return q, 0, &execution.Error{Kind: execution.KindInvalid, Code: "query_invalid", Detail: "the query of the URL cannot be read"}
	}
	q = ApprovalQuery{Tenant: x.principal.Tenant, State: execution.ApprovalPending, Most: maxApprovalList + 1}
	for name, all := range values {
		value, known := all[0], len(allowed) == 0 || slices.Contains(allowed, name)
		switch {
		case len(all) > 1:
			f.add(pointerTo(name), "stands twice in the query")
		case known && name == "wait":
			wait, err = time.ParseDuration(value)
			if err != nil || wait < 0 || wait > maxApprovalWait {
				f.addf("/wait", "must be a duration from 0s to %s, such as 30s", maxApprovalWait)
			}
		case known && name == "state" && value == "all":
			q.State = ""
		case known && name == "state" && slices.Contains(execution.ApprovalStates(), execution.ApprovalState(value)):
			q.State = execution.ApprovalState(value)
		case known && name == "state":
			f.add("/state", "must be pending, approved, denied, expired, voided or all")
		case known && name == "after" && execution.ValidID(execution.PrefixApproval, value):
			q.After = value
		case known && name == "after":
			f.add("/after", "must be the id of an approval")
		case known && name == "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxApprovalList {
				f.addf("/limit", "must be from 1 to %d", maxApprovalList)
			}
			q.Most = n + 1
		default:
			f.add(pointerTo(name), "is not a parameter of this route")
		}
	}
	return q, wait, f.err()
}

func (x *exchange) writeJSON(status int, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return internal("encode answer", err)
	}
	x.write(status, mediaJSON, body)
	return nil
}

// listApprovals is Approvals.List, of which there are none where nothing keeps them.
func (s *Service) listApprovals(ctx context.Context, q ApprovalQuery) (list []StoredApproval, err error) {
	if s.approvals == nil {
		return nil, nil
	}
	err = s.approving(ctx, "list approvals", func(ctx context.Context) (err error) {
		list, err = s.approvals.List(ctx, q)
		return err
	})
	return list, err
}

// await calls look until it says that it has found what it waits for, at each
// change of an approval, for at most as long as wait. It ends with ctx, and with a
// gateway that shuts down.
func (s *Service) await(ctx context.Context, wait time.Duration, look func(context.Context) (bool, error)) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		change := s.changed.seen()
		if found, err := look(ctx); found || err != nil || wait == 0 {
			return err
		}
		select {
		case <-change:
			if s.admission.refusing() {
				return nil
			}
		case <-timer.C:
			wait = 0
		case <-ctx.Done():
			return gone(ctx)
		}
	}
}
