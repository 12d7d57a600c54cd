package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy/worker"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Workers evaluate bundles outside of the gateway's process, so that what
// somebody else wrote can neither hold it up nor take its memory.
type Workers interface {
	// Load compiles a bundle and makes it known by its revision, which is returned
	// as soon as it is known. A *BundleError means that the bundle is at fault.
	Load(ctx context.Context, bundle Bundle) (revision string, err error)
	// Evaluate asks a loaded bundle about an input document. An error means that
	// there is no answer at all: context.DeadlineExceeded where there was none in
	// time, which is theirs to bound. Tenants share the workers fairly. With full,
	// the answer has a trace.
	Evaluate(ctx context.Context, tenant, revision string, input []byte, full bool) (Answer, error)
	// Forget drops a bundle once it was called as often as Load was for it.
	Forget(revision string)
}

// Answer is what a bundle that was evaluated elsewhere answers.
type Answer struct {
	// Document is the value of data.execgate.decision as JSON, not yet held to
	// any form.
	Document json.RawMessage `json:"document,omitempty"`
	// Failure is why there is no document, for the caller; Cause is for the log.
	Failure *execution.Reason `json:"failure,omitempty"`
	Cause   string            `json:"cause,omitempty"`
	// Modes are those of the bundle's rules that are not enforced: "warn" or
	// "shadow", by the rule's id.
	Modes     map[string]string `json:"modes,omitempty"`
	Trace     string            `json:"trace,omitempty"`
	Truncated bool              `json:"truncated,omitempty"`
}

// ActivateTenant compiles a tenant's own bundle, in a worker process, and puts it
// in force beside the organisation's, which it can only narrow. Where there is
// an error (a *BundleError if the bundle is at fault) the tenant's policy in
// force stays. The revision is returned as soon as it is known.
func (e *Engine) ActivateTenant(ctx context.Context, tenant string, bundle Bundle) (revision string, err error) {
	if e.config.Workers == nil {
		return "", errors.New("there are no worker processes to evaluate a tenant's policy in")
	}
	if tenant == "" {
		return "", bundleErrorf("the policy of a tenant needs the tenant's name")
	}
	e.activating.Lock()
	defer e.activating.Unlock()
	revision, err = e.config.Workers.Load(ctx, bundle)
	if err != nil {
		return revision, fmt.Errorf("activate the policy of tenant %q from %s: %w", tenant, bundle.Source, err)
	}
	next := e.present()
	old := next.tenants[tenant]
	next.tenants = with(next.tenants, tenant, revision)
	e.active.Store(&next)
	e.forget(old)
	return revision, nil
}

// RefuseTenant denies everything of a tenant whose own policy could not be put in
// force, unless an earlier one is.
func (e *Engine) RefuseTenant(tenant string) {
	e.activating.Lock()
	defer e.activating.Unlock()
	next := e.present()
	if _, ok := next.tenants[tenant]; ok {
		return
	}
	next.tenants = with(next.tenants, tenant, "")
	e.active.Store(&next)
}

// DropTenant takes a tenant's own policy out of force. The organisation's and the
// ceilings remain.
func (e *Engine) DropTenant(tenant string) {
	e.activating.Lock()
	defer e.activating.Unlock()
	next := e.present()
	old, ok := next.tenants[tenant]
	if !ok {
		return
	}
	next.tenants = maps.Clone(next.tenants)
	delete(next.tenants, tenant)
	e.active.Store(&next)
	e.forget(old)
}

// forget tells the workers that a tenant has another policy than the one it had;
// empty where it had none.
func (e *Engine) forget(revision string) {
	if revision != "" {
		e.config.Workers.Forget(revision)
	}
}

// TenantRevision names a tenant's own policy in force; empty where it has none.
func (e *Engine) TenantRevision(tenant string) string { return e.present().tenants[tenant] }

// SetCeilings puts ceilings in force in the place of those that were.
func (e *Engine) SetCeilings(c Ceilings) error {
	compiled, err := newCeilings(c)
	if err != nil {
		return fmt.Errorf("policy ceilings: %w", err)
	}
	e.activating.Lock()
	defer e.activating.Unlock()
	next := e.present()
	next.ceilings = compiled
	e.active.Store(&next)
	return nil
}

// decide asks the layers one after the other, as long as none has denied, and
// enforces what is left. t is nil where nobody wants to know how it came about.
func (e *Engine) decide(ctx context.Context, question execution.Question, t *tracing) execution.Decision {
	now := e.present()
	p := now.organisation
	if p == nil {
		return execution.Deny("", execution.Reason{
			Code: execution.CodePolicyNotLoaded, Rule: ruleEngine,
			Message:     "No policy is in force, so nothing is allowed.",
			Remediation: "The operator has to activate a policy; /readyz says what is wrong.",
		})
	}
	in, refusal := newInput(question, e.config)
	if refusal != nil {
		return execution.Deny(p.revision, *refusal)
	}
	t.keepInput(in)
	doc, failed := e.evaluate(ctx, p, in.value(), t)
	if failed != nil {
		e.logFailure(ctx, question.ID, p.revision, failed)
		return execution.Deny(p.revision, failed.reason)
	}
	layers, failed := e.narrow(ctx, now, in, &doc, t)
	if failed != nil {
		e.logFailure(ctx, question.ID, layers[0].Revision, failed)
		d := execution.Deny(p.revision, failed.reason)
		d.Layers = layers
		return d
	}
	d := enforce(doc, in, p.revision, e.config.Obligations)
	d.Layers = layers
	return d
}

// narrow narrows the organisation's document by the tenant's policy and by the
// ceilings, and returns which of them took part. A tenant's policy is not asked
// about what is denied already: floods of denials do not reach the workers.
func (e *Engine) narrow(ctx context.Context, now inForce, in *input, doc *document, t *tracing) (layers []execution.Layer, failed *failure) {
	if in.isEgress() {
		doc.proveEgress(in)
	}
	if revision, ok := now.tenants[in.Principal.Tenant]; ok && doc.effect != execution.EffectDeny {
		layers = append(layers, execution.Layer{Name: execution.LayerTenant, Revision: revision})
		own, failed := e.evaluateTenant(ctx, in, revision, t)
		if failed != nil {
			return layers, failed
		}
		if in.isEgress() {
			doc.narrowEgress(own, in)
		} else if in.isAuditRead() {
			doc.narrowAuditRead(own)
		} else {
			*doc = doc.narrowed(own, e.config.Obligations)
		}
	}
	if now.ceilings != nil && doc.effect != execution.EffectDeny {
		layers = append(layers, execution.Layer{Name: execution.LayerCeilings, Revision: now.ceilings.revision})
		now.ceilings.narrow(doc, in)
	}
	return layers, nil
}

// evaluateTenant asks a tenant's own policy, in a worker process.
func (e *Engine) evaluateTenant(ctx context.Context, in *input, revision string, t *tracing) (document, *failure) {
	if revision == "" {
		return document{}, &failure{reason: execution.Reason{
			Code: execution.CodePolicyNotLoaded, Rule: ruleEngine,
			Message:     "The tenant's own policy was refused, so nothing of this tenant is allowed.",
			Remediation: "The operator has to put the tenant's policy right; its policy_refused record says what is wrong.",
		}}
	}
	asked, err := in.encode()
	if err != nil {
		return document{}, broken(fmt.Errorf("encode input: %w", err))
	}
	answer, err := e.config.Workers.Evaluate(ctx, in.Principal.Tenant, revision, asked, t != nil && t.full)
	switch {
	case err != nil && ctx.Err() != nil:
		return document{}, cancelled(ctx.Err())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, worker.ErrBusy):
		return document{}, timedOut(err)
	case err != nil:
		return document{}, broken(err)
	}
	if t != nil && t.full {
		t.add("the tenant's policy", answer.Trace, answer.Truncated)
	}
	if answer.Failure != nil {
		return document{}, &failure{reason: *answer.Failure, err: errors.New(answer.Cause)}
	}
	if len(answer.Document) > maxTenantBytes {
		return document{}, invalid(fmt.Errorf("it is larger than %d KiB", maxTenantBytes>>10))
	}
	return decodeAnswer(answer)
}

// maxTenantBytes bounds what a tenant's policy answers. It is decoded in the gateway's
// process, where each byte may become a hundred: "[]," is a list of its own.
const maxTenantBytes = 256 << 10

// decodeAnswer holds what a worker wrote to the same form as an answer of the
// policy in this process: a worker has evaluated what a tenant wrote, and may be
// in that policy's hands.
func decodeAnswer(a Answer) (document, *failure) {
	plain, err := strictJSON(a.Document)
	if err != nil {
		return document{}, invalid(err)
	}
	value, err := ast.InterfaceToValue(plain)
	if err != nil {
		return document{}, invalid(err)
	}
	doc, err := decodeDocument(value)
	if err != nil {
		return document{}, invalid(err)
	}
	modes := make(modes, len(a.Modes))
	for id, is := range a.Modes {
		modes[id] = mode(is)
	}
	modes.apply(&doc)
	return doc, nil
}
