package gateway

import (
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// Policies puts the organisation's policy in force.
type Policies interface {
	// State says which is in force, and which were.
	State(ctx context.Context) execution.PolicyState
	// Put tries the bundle in archive and puts it in force. Where that fails, the
	// policy that is in force stays, and the error is an execution.Error whose Code
	// and Detail say why.
	Put(ctx context.Context, archive []byte, by execution.Principal) error
	// Rollback puts in force what was before. It fails with KindConflict where
	// nothing was.
	Rollback(ctx context.Context, by execution.Principal) error
}

// maxPolicyBody bounds an archive as it is sent.
const maxPolicyBody = 16 << 20

// policyTimeout bounds a change of policy, with the bundle's own tests. A caller
// that hangs up does not leave it half done.
const policyTimeout = 10 * time.Minute

// archiveTypes are the media types under which bundles are sent.
var archiveTypes = []string{"application/gzip", "application/x-gzip", "application/vnd.openpolicyagent.bundles", "application/octet-stream"}

// mayGovern lets only those through who run the gateway: its policy is that of
// every tenant.
func (g *Gateway) mayGovern(x *exchange) error {
	if x.principal.Tenant != operatorTenant {
		return &execution.Error{
			Kind: execution.KindDenied, Code: "other_tenant",
			Detail: "this policy is of all tenants: use a key of the tenant " + operatorTenant,
		}
	}
	if g.config.Policies == nil {
		return &execution.Error{Kind: execution.KindUnavailable, Code: "policy_fixed", Detail: "the policy of this gateway cannot be changed while it runs"}
	}
	return nil
}

// showPolicy is GET /v1/policy.
func (g *Gateway) showPolicy(x *exchange) error {
	if err := g.mayGovern(x); err != nil {
		return err
	}
	return g.writePolicy(x)
}

// putPolicy is PUT /v1/policy: its body is an archive.
func (g *Gateway) putPolicy(x *exchange) error {
	if err := g.mayGovern(x); err != nil {
		return err
	}
	if err := checkArchiveType(x.gin.Request.Header); err != nil {
		return err
	}
	archive, err := x.body(maxPolicyBody)
	if err != nil {
		return err
	}
	ctx, cancel := x.governing()
	defer cancel()
	if err := g.config.Policies.Put(ctx, archive, x.principal); err != nil {
		return err
	}
	return g.writePolicy(x)
}

// rollbackPolicy is POST /v1/policy/rollback. It has no body.
func (g *Gateway) rollbackPolicy(x *exchange) error {
	if err := g.mayGovern(x); err != nil {
		return err
	}
	if _, err := x.body(0); err != nil {
		return &execution.Error{Kind: execution.KindInvalid, Detail: "send no body: the policy goes back to the one before"}
	}
	ctx, cancel := x.governing()
	defer cancel()
	if err := g.config.Policies.Rollback(ctx, x.principal); err != nil {
		return err
	}
	return g.writePolicy(x)
}

func (x *exchange) governing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(x.ctx()), policyTimeout)
}

func (g *Gateway) writePolicy(x *exchange) error {
	body, err := json.Marshal(g.config.Policies.State(x.ctx()))
	if err != nil {
		return internal("encode policy", err)
	}
	x.write(http.StatusOK, mediaJSON, body)
	return nil
}

// checkArchiveType takes an archive as it is, with no encoding on top: that would
// hide its size.
func checkArchiveType(h http.Header) error {
	wrong := &execution.Error{Kind: kindUnsupportedMedia, Detail: "send a tar archive compressed by gzip, as execgate policy bundle makes it, with Content-Type: application/gzip and without a Content-Encoding"}
	values := h["Content-Type"]
	if len(values) != 1 || len(h["Content-Encoding"]) > 0 {
		return wrong
	}
	media, _, err := mime.ParseMediaType(values[0])
	if err != nil || !slices.Contains(archiveTypes, media) {
		return wrong
	}
	return nil
}
