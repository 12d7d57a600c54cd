package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/execgate/execgate/execution"
)

// explainDecision is POST /v1/decisions: what policy says to an execution that
// the caller might ask for. Nothing is run, kept or recorded.
func (g *Gateway) explainDecision(x *exchange) error {
	full, err := explainOf(x)
	if err != nil {
		return err
	}
	request, err := g.readExecution(x)
	if err != nil {
		return err
	}
	call := Call{Principal: x.principal, Request: request, RequestID: x.requestID, TraceID: x.traceID}
	e, err := g.config.Service.Explain(x.ctx(), call, full)
	if err != nil {
		return err
	}
	body, err := json.Marshal(explanationOf(e, full))
	if err != nil {
		return internal("encode explanation", err)
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

// explainOf reads the parameter explain. The steps of an evaluation show the
// policy and its data, those of other tenants too, so they are for the admins of those
// who run the gateway, and not for a tenant's.
func explainOf(x *exchange) (full bool, err error) {
	for name, values := range x.gin.Request.URL.Query() {
		if name != "explain" || len(values) != 1 || values[0] != "full" {
			return false, &execution.Error{
				Kind: execution.KindInvalid, Code: "invalid_parameter",
				Detail: "the only parameter is explain=full",
			}
		}
		full = true
	}
	if full && !x.principal.Has(execution.RoleAdmin) {
		return false, errRole(execution.RoleAdmin)
	}
	if full && x.principal.Tenant != operatorTenant {
		return false, &execution.Error{
			Kind: execution.KindDenied, Code: "other_tenant",
			Detail: "the steps show what policy has of all tenants: use a key of the tenant " + operatorTenant + ", or ask without explain=full",
		}
	}
	return full, nil
}

// Explain answers what would be decided about call, and how that comes about,
// with every step where full is set. It has no side effect. The session of a call
// is what policy is asked about, but what the session itself has is not compared.
// Errors are those of Execute before its decision.
func (s *Service) Explain(ctx context.Context, call Call, full bool) (execution.Explanation, error) {
	if err := somebody(call.Principal); err != nil {
		return execution.Explanation{}, err
	}
	q, err := s.question(ctx, call, execution.ActionExecute, s.budgets.see(call.Principal.Owner(), time.Now()))
	if err != nil {
		return execution.Explanation{}, err
	}
	e, err := s.explain(ctx, q, full)
	if err != nil {
		return execution.Explanation{}, err
	}
	e.Decision = s.checked(q, e.Decision, nil)
	var ready duties
	ready, e.Decision = s.oblige(e.Decision)
	ready.drop()
	if err := unanswered(e.Decision); err != nil {
		return execution.Explanation{}, err
	}
	return e, nil
}

func (s *Service) explain(ctx context.Context, q execution.Question, full bool) (e execution.Explanation, err error) {
	defer s.recovered("explain", &err)
	return s.decider.Explain(ctx, q, full), nil
}

// explanationDocument is the 200 body.
type explanationDocument struct {
	decisionDocument
	// Grant is what would be granted: of an allow, and of what needs an approval.
	Grant       *grantDocument           `json:"grant,omitempty"`
	Approval    *execution.ApprovalTerms `json:"approval,omitempty"`
	Obligations []execution.Obligation   `json:"obligations,omitempty"`
	// The rest is there with explain=full.
	Shadowed  []execution.Reason `json:"shadowed,omitempty"`
	Layers    []execution.Layer  `json:"layers,omitempty"`
	Input     json.RawMessage    `json:"input,omitempty"`
	Trace     string             `json:"trace,omitempty"`
	Truncated bool               `json:"trace_truncated,omitempty"`
}

// grantDocument is of a grant what a caller may know.
type grantDocument struct {
	Image   string                  `json:"image"` // its digest
	Runtime string                  `json:"runtime"`
	Limits  execution.Limits        `json:"limits"`
	Session *execution.SessionGrant `json:"session,omitempty"`
	// Network are the rules of what it may reach, and Tools the tools that it would be
	// lent credentials of: where those come from is nobody's but the operator's.
	Network []execution.NetworkRule `json:"network,omitempty"`
	Tools   []string                `json:"tools,omitempty"`
}

func explanationOf(e execution.Explanation, full bool) explanationDocument {
	d := e.Decision
	document := explanationDocument{decisionDocument: decisionOf(d), Approval: d.Approval, Obligations: d.Obligations}
	if d.Effect != execution.EffectDeny {
		document.Grant = &grantDocument{Image: d.Grant.Image, Runtime: d.Grant.Runtime, Limits: d.Grant.Limits, Network: d.Grant.Network.Rules}
		for _, c := range d.Grant.Credentials {
			document.Grant.Tools = append(document.Grant.Tools, c.Tool)
		}
		if d.Grant.Session != (execution.SessionGrant{}) {
			document.Grant.Session = &d.Grant.Session
		}
	}
	if full {
		document.Shadowed, document.Layers = d.Shadowed, d.Layers
		document.Input, document.Trace, document.Truncated = e.Input, e.Trace, e.Truncated
	}
	return document
}
