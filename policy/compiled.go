package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/execgate/execgate/execution"
)

// CompileConfig is what a Compiled is made from.
type CompileConfig struct {
	// Organisation is the organisation's policy, or one that might take its place.
	Organisation Bundle
	Terms        Terms
	// Deadline bounds one evaluation; zero means DefaultDeadline.
	Deadline time.Duration
	// Workers evaluate the tenants' policies. Where it is nil there can be none.
	Workers Workers
	// Isolated has Workers evaluate the organisation's policy too, because it is not
	// the one in force and must not be evaluated in the gateway's process.
	Isolated bool
	Logger   *slog.Logger
}

// Compiled decides recorded inputs by policies that need not be in force. They are
// compiled once and asked many times.
type Compiled struct {
	engine   *Engine // not in force anywhere: it lends its ways of evaluating
	now      inForce
	revision string
	isolated bool
}

// replaying is the name under which Workers evaluate, so that what is replayed
// takes its turn among the tenants and no tenant's own.
const replaying = "gateway.replay"

// Compile compiles what is to decide. It fails with a *BundleError where the
// bundle is at fault. Close is to be called in the end.
func Compile(ctx context.Context, config CompileConfig) (*Compiled, error) {
	engine, err := New(Config{
		Logger: config.Logger, Deadline: config.Deadline, Obligations: config.Terms.Obligations, Workers: config.Workers,
	})
	if err != nil {
		return nil, err
	}
	c := &Compiled{engine: engine, isolated: config.Isolated}
	if config.Terms.Ceilings != nil {
		if c.now.ceilings, err = newCeilings(*config.Terms.Ceilings); err != nil {
			return nil, fmt.Errorf("policy ceilings: %w", err)
		}
	}
	if config.Isolated {
		if config.Workers == nil {
			return nil, errNoWorkers
		}
		if c.revision, err = config.Workers.Load(ctx, config.Organisation); err != nil {
			return nil, fmt.Errorf("compile policy from %s: %w", config.Organisation.Source, err)
		}
		return c, nil
	}
	loaded, err := load(config.Organisation)
	if err != nil {
		return nil, fmt.Errorf("load policy from %s: %w", config.Organisation.Source, err)
	}
	if c.now.organisation, err = prepare(ctx, loaded); err != nil {
		return nil, fmt.Errorf("compile policy from %s: %w", config.Organisation.Source, err)
	}
	c.revision = loaded.revision
	return c, nil
}

var errNoWorkers = errors.New("there are no worker processes to evaluate the policy in")

// Revision names the organisation's policy.
func (c *Compiled) Revision() string { return c.revision }

// SetTenant puts a tenant's own policy beside the organisation's, in the place of
// one that was set before. It must not be called while Decide runs.
func (c *Compiled) SetTenant(ctx context.Context, tenant string, own Bundle) error {
	if c.engine.config.Workers == nil {
		return errNoWorkers
	}
	revision, err := c.engine.config.Workers.Load(ctx, own)
	if err != nil {
		return fmt.Errorf("compile the policy of tenant %q: %w", tenant, err)
	}
	c.DropTenants()
	c.now.tenants = map[string]string{tenant: revision}
	return nil
}

// DropTenants takes away what SetTenant has put there.
func (c *Compiled) DropTenants() {
	for _, revision := range c.now.tenants {
		c.engine.config.Workers.Forget(revision)
	}
	c.now.tenants = nil
}

// Close lets the workers drop what they compiled.
func (c *Compiled) Close() {
	c.DropTenants()
	if c.isolated {
		c.engine.config.Workers.Forget(c.revision)
	}
}

// Decide answers a document of InputJSON as an Engine answers its question. The
// error says that the document cannot be read. It may be called concurrently.
func (c *Compiled) Decide(ctx context.Context, inputJSON []byte) (execution.Decision, error) {
	in, value, err := recordedInput(inputJSON)
	if err != nil {
		return execution.Decision{}, err
	}
	var doc document
	var failed *failure
	if c.isolated {
		doc, failed = c.evaluateIsolated(ctx, inputJSON)
	} else {
		doc, failed = c.engine.evaluate(ctx, c.now.organisation, value, nil)
	}
	if failed != nil {
		return execution.Deny(c.revision, failed.reason), nil
	}
	layers, failed := c.engine.narrow(ctx, c.now, in, &doc, nil)
	var d execution.Decision
	if failed != nil {
		d = execution.Deny(c.revision, failed.reason)
	} else {
		d = enforce(doc, in, c.revision, c.engine.config.Obligations)
	}
	d.Layers = layers
	return d, nil
}

func (c *Compiled) evaluateIsolated(ctx context.Context, inputJSON []byte) (document, *failure) {
	limited, cancel := context.WithTimeout(ctx, c.engine.config.Deadline)
	defer cancel()
	answer, err := c.engine.config.Workers.Evaluate(limited, replaying, c.revision, inputJSON, false)
	switch {
	case err != nil && ctx.Err() != nil:
		return document{}, cancelled(ctx.Err())
	case err != nil && limited.Err() != nil:
		return document{}, timedOut(err)
	case err != nil:
		return document{}, broken(err)
	case answer.Failure != nil:
		return document{}, &failure{reason: *answer.Failure, err: errors.New(answer.Cause)}
	}
	return decodeAnswer(answer)
}
