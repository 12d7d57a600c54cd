package activation

import (
	"context"
	"log/slog"
	"os"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// CeilingsEngine is what ceilings are put in force in; *policy.Engine is one.
type CeilingsEngine interface {
	SetCeilings(c policy.Ceilings) error
}

// CeilingsConfig is what Ceilings are made from.
type CeilingsConfig struct {
	File   string // JSON
	Engine CeilingsEngine
	// Record makes a record durable.
	Record func(ctx context.Context, record execution.Record) error
	Logger *slog.Logger
}

// Ceilings puts the ceilings of a file in force. What is refused leaves those that
// are. Its methods are not to be called concurrently.
type Ceilings struct {
	cfg     CeilingsConfig
	inForce string // the revision that was recorded
	told    string // why the file was refused, as it was recorded last; empty since it was not
}

// NewCeilings puts the ceilings of a file in force before there is any question; Look
// records them then.
func NewCeilings(cfg CeilingsConfig) (*Ceilings, error) {
	c := &Ceilings{cfg: cfg}
	ceilings, err := c.read()
	if err != nil {
		return nil, err
	}
	return c, cfg.Engine.SetCeilings(ceilings)
}

func (c *Ceilings) read() (policy.Ceilings, error) {
	text, err := os.ReadFile(c.cfg.File)
	if err != nil {
		return policy.Ceilings{}, err
	}
	return policy.ParseCeilings(text)
}

// Look puts in force what the file has, where that is new, and records it before.
// Where it has to be looked at again though nothing changes, again is set.
func (c *Ceilings) Look(ctx context.Context) (again bool) {
	change := execution.PolicyChange{Layer: execution.LayerCeilings, Source: c.cfg.File}
	ceilings, err := c.read()
	if err == nil {
		change.Revision, err = ceilings.Revision()
	}
	if err != nil {
		return c.refuse(ctx, change, err)
	}
	if change.Revision == c.inForce {
		c.told = ""
		return false
	}
	if err := c.cfg.Record(ctx, execution.Record{Type: execution.RecordPolicyActivated, Policy: &change}); err != nil {
		c.cfg.Logger.ErrorContext(ctx, "the ceilings could not be recorded, and are tried again", "file", c.cfg.File, "error", err)
		return true
	}
	if err := c.cfg.Engine.SetCeilings(ceilings); err != nil {
		return c.refuse(ctx, change, err)
	}
	c.inForce, c.told = change.Revision, ""
	c.cfg.Logger.InfoContext(ctx, "ceilings are in force", "file", c.cfg.File, "revision", change.Revision)
	return false
}

// refuse records, once, why the file's ceilings are not put in force.
func (c *Ceilings) refuse(ctx context.Context, change execution.PolicyChange, err error) (again bool) {
	if c.told == err.Error() {
		return true
	}
	c.cfg.Logger.ErrorContext(ctx, "ceilings are refused; those in force stay", "file", c.cfg.File, "error", err)
	change.Errors = problemsOf(err)
	if c.cfg.Record(ctx, execution.Record{Type: execution.RecordPolicyRefused, Policy: &change}) == nil {
		c.told = err.Error()
	}
	return true
}
