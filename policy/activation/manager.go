package activation

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// keep is how many bundles are kept: the one in force, and those before it.
const keep = 6

// swapTimeout bounds putting a bundle in force that was checked before. It is not
// the time of the request that caused it: everybody's next request depends on it.
const swapTimeout = 30 * time.Second

// Engine is what a policy is put in force in; *policy.Engine is one.
type Engine interface {
	Activate(ctx context.Context, bundle policy.Bundle) (revision string, err error)
	Revision() string
}

// Workers try a candidate outside of this process; *policy.Remote is one.
type Workers interface {
	policy.Workers
	Test(ctx context.Context, bundle policy.Bundle) (policy.TestReport, error)
}

// Config is what a Manager is made from.
type Config struct {
	Engine  Engine
	Workers Workers
	// Keys are those of which a candidate needs a signature; none: it needs none.
	Keys policy.Keys
	// RequireTests refuses candidates that have no tests.
	RequireTests bool
	// Obligations are the types of obligation that the gateway can meet.
	Obligations []string
	// Shipped is the digest of the policy that is part of the program. It was
	// checked with it, and from Embedded it needs no signature: from anywhere else it
	// does, or whoever holds no key could put it in the place of a stricter one.
	Shipped string
	// Tools are those of the gateway, which every bundle reads as data.tools.
	Tools map[string]execution.ToolFacts
	// Dir is the folder in which bundles are kept.
	Dir string
	// Record makes a record durable.
	Record func(ctx context.Context, record execution.Record) error
	// Changed is told, where it is not nil, that another revision is in force.
	Changed func()
	Logger  *slog.Logger
}

// Embedded is the source of the policy that is part of the program.
const Embedded = "embedded"

// Candidate is a bundle that may come into force.
type Candidate struct {
	Files     policy.Files
	Signature *policy.Signature    // nil: it has none
	Source    string               // where it is from
	By        *execution.Principal // who sent it; nil: the gateway read it
}

// Manager puts policies in force. Its methods may be called concurrently.
type Manager struct {
	cfg   Config
	trial trial

	trying  sync.Mutex // one candidate is tried at a time; taken before mu
	mu      sync.Mutex // one change at a time; held only for what is quick
	history history
	images  map[string]string

	state   sync.Mutex // of what State and Counts say
	refused *execution.PolicyRefusal
	counts  Counts
}

// Counts are how many bundles came into force, and were refused, since the start.
type Counts struct{ Activated, Refused uint64 }

// New returns a Manager that has put nothing in force. It reads what an earlier
// one kept in Dir.
func New(cfg Config) (*Manager, error) {
	if cfg.Engine == nil || cfg.Workers == nil || cfg.Record == nil || cfg.Logger == nil || cfg.Dir == "" {
		return nil, errors.New("policy activation: a part is missing")
	}
	h, err := openHistory(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, trial: trial{cfg.Workers, cfg.RequireTests}, history: h}, nil
}

// Submit checks a candidate and puts it in force. Its error is an
// *execution.Error with a code of this package that says what is wrong; the policy
// in force is then as it was. One that is in force already is no error.
func (m *Manager) Submit(ctx context.Context, c Candidate) error {
	m.trying.Lock()
	defer m.trying.Unlock()
	return m.submit(ctx, c)
}

func (m *Manager) submit(ctx context.Context, c Candidate) error {
	bundle := execution.PolicyActivation{Digest: c.Files.Digest(), Source: c.Source, Since: time.Now().UTC()}
	if c.Signature != nil {
		bundle.Sequence = c.Signature.Sequence
	}
	if c.By != nil {
		bundle.By = c.By.Subject
	}
	if known, err := m.inForce(c, bundle); known {
		return err
	}
	err := m.check(ctx, c) // it takes its time: whoever needs mu is not kept waiting
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		err = m.keepAndSwap(ctx, c, bundle)
	}
	if err != nil && faultOf(err).Kind == execution.KindUnavailable {
		// It was not the policy's fault, and is tried again.
	} else if seen := m.history.see(c.Source, bundle.Digest); seen != nil {
		m.cfg.Logger.ErrorContext(ctx, "the policies that were in force cannot be kept", "error", seen)
	}
	if err != nil {
		fault := faultOf(err)
		m.refuse(ctx, c, fault, err)
		return fault
	}
	m.forgive()
	return nil
}

// keepAndSwap puts a candidate in force that was checked. It is kept first: what is in
// force has to be there for the next images, and for whoever goes back to it.
func (m *Manager) keepAndSwap(ctx context.Context, c Candidate, bundle execution.PolicyActivation) error {
	err := m.history.keep(bundle, c.Files, c.Signature)
	if err == nil {
		err = m.swap(ctx, c.Files, bundle, c.By)
	}
	if err != nil {
		return errors.Join(err, m.history.sweep())
	}
	if err := m.history.push(bundle); err != nil {
		// It is in force all the same: a restart may know only the one before.
		m.cfg.Logger.ErrorContext(ctx, "which policies were in force cannot be kept", "error", err)
	}
	return nil
}

// SubmitArchive submits the bundle in an archive that was sent by somebody.
func (m *Manager) SubmitArchive(ctx context.Context, archive []byte, source string, by *execution.Principal) error {
	c := Candidate{Source: source, By: by}
	var err error
	if c.Files, c.Signature, err = policy.ReadArchive(bytes.NewReader(archive)); err != nil {
		fault := faultOf(err)
		m.refuse(ctx, Candidate{Source: source, By: by}, fault, err)
		return fault
	}
	return m.Submit(ctx, c)
}

// inForce reports whether a candidate is in force already, and then remembers that
// it was seen.
func (m *Manager) inForce(c Candidate, bundle execution.PolicyActivation) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.history.active()
	if !ok || last.Digest != bundle.Digest || last.Sequence != bundle.Sequence || m.cfg.Engine.Revision() == "" {
		return false, nil
	}
	return true, m.history.see(c.Source, bundle.Digest)
}

// present is what a candidate is tried with: the images, and the highest sequence.
func (m *Manager) present() (images map[string]string, highest uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.images, m.history.Highest
}

// Unreadable records that a source has nothing that could be tried.
func (m *Manager) Unreadable(ctx context.Context, source string, err error) {
	fault := &execution.Error{Kind: execution.KindUnavailable, Code: CodeUnreadable, Detail: "the policy cannot be read", Err: err}
	if broken, ok := errors.AsType[*policy.BundleError](err); ok {
		fault = faultOf(broken)
	}
	m.refuse(ctx, Candidate{Source: source}, fault, err)
}

// State says what is in force.
func (m *Manager) State() execution.PolicyState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := execution.PolicyState{Revision: m.cfg.Engine.Revision(), Before: []execution.PolicyActivation{}}
	if last, ok := m.history.active(); ok {
		s.Active, s.Before = &last, slices.Clone(m.history.Bundles[1:])
	}
	m.state.Lock()
	defer m.state.Unlock()
	s.Refused = m.refused
	return s
}

// Counts are those since the start.
func (m *Manager) Counts() Counts {
	m.state.Lock()
	defer m.state.Unlock()
	return m.counts
}
