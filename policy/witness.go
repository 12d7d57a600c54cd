package policy

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/execgate/execgate/execution"
)

// Witness is an Engine whose decisions say what they were made of, so that they
// can be replayed: see execution.Asked. Bundles must be put in force through it.
type Witness struct {
	*Engine
	terms atomic.Pointer[termsInForce]

	mu      sync.Mutex
	bundles map[string]*bundles // by tenant; empty for the organisation's
}

// bundles are those of the organisation, or of a tenant: the one in force, and the
// one before it, by which decisions are still under way.
type bundles struct{ now, before execution.PolicyDocument }

// termsInForce are the terms that go with ceilings.
type termsInForce struct {
	of       *ceilings
	document execution.PolicyDocument
}

// NewWitness returns a Witness of an engine that has no policy yet.
func NewWitness(engine *Engine) *Witness {
	return &Witness{Engine: engine, bundles: map[string]*bundles{}}
}

// Activate is Engine.Activate.
func (w *Witness) Activate(ctx context.Context, bundle Bundle) (revision string, err error) {
	return w.activate("", bundle, func(read Bundle) (string, error) { return w.Engine.Activate(ctx, read) })
}

// ActivateTenant is Engine.ActivateTenant.
func (w *Witness) ActivateTenant(ctx context.Context, tenant string, bundle Bundle) (revision string, err error) {
	return w.activate(tenant, bundle, func(read Bundle) (string, error) { return w.Engine.ActivateTenant(ctx, tenant, read) })
}

// activate has a bundle put in force, and holds it from just before.
func (w *Witness) activate(tenant string, bundle Bundle, activate func(Bundle) (string, error)) (string, error) {
	content, read, revision, err := Pack(bundle)
	if err != nil {
		return "", err
	}
	document := execution.PolicyDocument{Kind: execution.PolicyBundle, Revision: revision, Tenant: tenant, Content: content}
	was := w.hold(tenant, func(b bundles) bundles { return bundles{now: document, before: b.now} })
	revision, err = activate(read)
	if err != nil {
		w.hold(tenant, func(bundles) bundles { return was })
	}
	return revision, err
}

// hold changes what is held, and returns what was.
func (w *Witness) hold(tenant string, change func(bundles) bundles) (was bundles) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if held := w.bundles[tenant]; held != nil {
		was = *held
	}
	now := change(was)
	w.bundles[tenant] = &now
	return was
}

// find returns the document of a revision; nil where it is not held.
func (w *Witness) find(tenant, revision string) []execution.PolicyDocument {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := w.bundles[tenant]
	switch {
	case held == nil || revision == "":
		return nil
	case held.now.Revision == revision:
		return []execution.PolicyDocument{held.now}
	case held.before.Revision == revision:
		return []execution.PolicyDocument{held.before}
	}
	return nil
}

// Decide is Engine.Decide. The decision's Asked is nil where policy was not asked, and
// of the kinds egress and audit_read: these are recorded without it, and egress is too
// much to keep.
func (w *Witness) Decide(ctx context.Context, question execution.Question) execution.Decision {
	if question.Action == execution.ActionEgress || question.Action == execution.ActionAuditRead {
		return w.Engine.Decide(ctx, question)
	}
	t := &tracing{}
	was := w.present()
	d := w.decide(ctx, question, t)
	answer, err := json.Marshal(d)
	if t.input == nil || err != nil {
		return d
	}
	// What decided is what the decision says. What took no part in it, because
	// it was denied already, would have in a replay by another policy.
	own := was.tenants[question.Principal.Tenant]
	for _, layer := range d.Layers {
		switch {
		case layer.Name == execution.LayerTenant:
			own = layer.Revision
		case was.ceilings == nil || was.ceilings.revision != layer.Revision:
			was = w.present() // they were changed meanwhile
		}
	}
	terms, err := w.termsOf(was.ceilings)
	if err != nil {
		return d
	}
	documents := append(w.find("", d.Revision), w.find(question.Principal.Tenant, own)...)
	d.Asked = &execution.Asked{
		Input: t.input, Answer: answer, Organisation: d.Revision, Own: own, Terms: terms.Revision,
		Documents: append(documents, terms),
	}
	return d
}

// termsOf encodes terms once for all decisions by them.
func (w *Witness) termsOf(c *ceilings) (execution.PolicyDocument, error) {
	if known := w.terms.Load(); known != nil && known.of == c {
		return known.document, nil
	}
	terms := Terms{Obligations: w.config.Obligations}
	if c != nil {
		terms.Ceilings = &c.Ceilings
	}
	content, revision, err := terms.encode()
	if err != nil {
		return execution.PolicyDocument{}, err
	}
	document := execution.PolicyDocument{Kind: execution.PolicyTerms, Revision: revision, Content: content}
	w.terms.Store(&termsInForce{of: c, document: document})
	return document, nil
}
