package gateway

import (
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/execgate/execgate/execution"
)

// route is one row of the table of routes. A row that is not public needs a
// credential and the role; the zero role is held by nobody but an admin.
type route struct {
	method, path string
	public       bool
	role         execution.Role
	handle       func(x *exchange) error
	// offers are the forms that the answer can have; none: JSON only; mediaAny: the
	// form is not the caller's to choose.
	offers []string
}

// routes is the one table of what can be asked over HTTP, and by whom.
func (g *Gateway) routes() []route {
	return []route{
		{http.MethodPost, "/v1/executions", false, execution.RoleCaller, g.createExecution, []string{mediaJSON, mediaEvents}},
		{http.MethodGet, "/v1/executions/:id", false, execution.RoleCaller, g.showExecution, nil},
		{http.MethodDelete, "/v1/executions/:id", false, execution.RoleCaller, g.cancelExecution, nil},
		{http.MethodGet, "/v1/executions/:id/events", false, execution.RoleCaller, g.followExecution, []string{mediaEvents}},
		{http.MethodPost, "/v1/sessions", false, execution.RoleCaller, g.createSession, nil},
		{http.MethodGet, "/v1/sessions", false, execution.RoleCaller, g.listSessions, nil},
		{http.MethodGet, "/v1/sessions/:id", false, execution.RoleCaller, g.showSession, nil},
		{http.MethodDelete, "/v1/sessions/:id", false, execution.RoleCaller, g.deleteSession, nil},
		{http.MethodPut, "/v1/sessions/:id/files/*path", false, execution.RoleCaller, g.putFile, []string{mediaAny}},
		{http.MethodGet, "/v1/sessions/:id/files/*path", false, execution.RoleCaller, g.getFile, []string{mediaAny}},
		{http.MethodGet, "/v1/tools", false, execution.RoleCaller, g.listTools, nil},
		{http.MethodPost, "/v1/tools/:name/calls", false, execution.RoleCaller, g.callTool, nil},
		{http.MethodPost, "/v1/decisions", false, execution.RoleCaller, g.explainDecision, nil},
		{http.MethodGet, "/v1/approvals", false, execution.RoleApprover, g.listApprovals, nil},
		{http.MethodGet, "/v1/approvals/:id", false, execution.RoleApprover, g.showApproval, nil},
		{http.MethodPost, "/v1/approvals/:id", false, execution.RoleApprover, g.settleApproval, nil},
		{http.MethodGet, "/v1/policy", false, execution.RolePolicyAuthor, g.showPolicy, nil},
		{http.MethodPut, "/v1/policy", false, execution.RolePolicyAuthor, g.putPolicy, nil},
		{http.MethodPost, "/v1/policy/rollback", false, execution.RolePolicyAuthor, g.rollbackPolicy, nil},
		{http.MethodGet, "/v1/records", false, execution.RoleAuditor, g.listRecords, nil},
		{http.MethodGet, "/v1/records/:seq", false, execution.RoleAuditor, g.showRecord, nil},
		{http.MethodPost, "/v1/records/reads", false, execution.RoleAuditor, g.noteRead, nil},
		{http.MethodGet, "/v1/usage", false, roleOfUsage, g.showUsage, nil},
		{http.MethodPost, "/v1/keys", false, execution.RoleAdmin, g.createKey, nil},
		{http.MethodGet, "/v1/keys", false, execution.RoleAdmin, g.listKeys, nil},
		{http.MethodDelete, "/v1/keys/:id", false, execution.RoleAdmin, g.revokeKey, nil},
		{http.MethodPost, "/v1/erasures", false, execution.RoleAdmin, g.erase, nil},
		{http.MethodGet, "/healthz", true, "", g.health, nil},
		{http.MethodGet, "/readyz", true, "", g.readiness, nil},
		{http.MethodGet, "/metrics", false, execution.RoleAuditor, g.metrics, []string{mediaAny}},
	}
}

// roleOfUsage is of the route where callers see what is theirs, and auditors what is
// their tenant's.
const roleOfUsage execution.Role = "caller or auditor"

// handler is everything that happens around a route's own work: the request's
// ids, the guard, the answer to an error or a panic, the one line of the log.
func (g *Gateway) handler(r route) gin.HandlerFunc {
	return func(c *gin.Context) {
		x := g.begin(c)
		defer g.finish(x)
		defer func() {
			if p := recover(); p != nil {
				g.config.Logger.ErrorContext(x.ctx(), "panic", "doing", r.method+" "+r.path, "panic", p,
					"stack", string(debug.Stack()), "request_id", x.requestID)
				x.fail(&execution.Error{Kind: execution.KindInternal, Code: "panic"})
			}
		}()
		if !r.public {
			if err := g.guard(x, r); err != nil {
				x.fail(err)
				return
			}
		}
		if err := r.handle(x); err != nil {
			x.fail(err)
		}
	}
}

// errRole is the error of a caller who does not have a role that is needed.
func errRole(role execution.Role) error {
	return &execution.Error{
		Kind: execution.KindDenied, Code: "role_required",
		Detail: "this needs the role " + string(role),
		Reasons: []execution.Reason{{
			Code: "role_required", Message: "this needs the role " + string(role),
			Remediation: "use a key that has it",
		}},
	}
}

// guard lets through only a caller who is proven and holds the route's role. It
// runs before a byte of the body is read.
func (g *Gateway) guard(x *exchange, r route) error {
	principal, err := g.authenticate(x)
	if err != nil {
		return err
	}
	x.principal = principal
	if !principal.Has(r.role) && (r.role != roleOfUsage || !principal.Has(execution.RoleCaller) && !principal.Has(execution.RoleAuditor)) {
		return errRole(r.role)
	}
	if slices.Contains(r.offers, mediaAny) {
		return nil
	}
	offers := r.offers
	if len(offers) == 0 {
		offers = []string{mediaJSON}
	}
	x.media, err = negotiate(x.gin.Request.Header, offers...)
	return err
}
