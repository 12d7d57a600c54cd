package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// DefaultDeadline bounds one evaluation where Config does not say otherwise.
const DefaultDeadline = 50 * time.Millisecond

// DefaultMaxAbandoned is how many evaluations may be abandoned at once where
// Config does not say otherwise.
const DefaultMaxAbandoned = 4

// Config is what an Engine is made from. The zero Config is usable.
type Config struct {
	// Logger receives what must not reach a caller: the text of evaluation
	// errors. Nothing is logged where it is nil.
	Logger *slog.Logger

	// Deadline bounds one evaluation, from the question to the answer. A
	// question is answered on time even when the evaluator does not return.
	// Zero means DefaultDeadline.
	Deadline time.Duration

	// MaxAbandoned is the number of evaluations that ran past the deadline and
	// still do not return, from which on every question is denied and Ready
	// fails. Zero means DefaultMaxAbandoned.
	MaxAbandoned int

	// Environment is what policies read as input.context.environment, such as
	// "production". It may be empty.
	Environment string

	// InputCode puts the source text of the code into the input, as
	// input.action.code.text. Without it policies see its digest and its size.
	InputCode bool

	// Obligations are the types of obligation that the gateway can meet. One
	// that must be met and is of another type denies.
	Obligations []string

	// Workers evaluate the bundles of tenants. Where it is nil, none can be
	// activated.
	Workers Workers
}

// Engine decides. All its methods may be called concurrently.
type Engine struct {
	config Config
	log    *slog.Logger

	activating sync.Mutex // held by what changes active; Decide takes no lock
	active     atomic.Pointer[inForce]

	// workers holds a token for each goroutine that evaluates, abandoned ones
	// included, so that their number is bounded whatever a policy does. queue
	// hands them their work.
	workers   chan struct{}
	queue     chan *evaluation
	abandoned atomic.Int64
}

// inForce is what decides, together: it never changes, but is replaced.
type inForce struct {
	organisation *policy           // nil: everything is denied
	tenants      map[string]string // revisions of their own policies, by tenant
	ceilings     *ceilings         // nil: none
}

// present is a copy of what is in force.
func (e *Engine) present() inForce {
	if p := e.active.Load(); p != nil {
		return *p
	}
	return inForce{}
}

// New returns an Engine that has no policy yet and therefore denies. It starts
// nothing; evaluations run on goroutines that end when they have been idle for a
// few seconds, so there is nothing to close.
func New(config Config) (*Engine, error) {
	if config.Deadline < 0 {
		return nil, fmt.Errorf("policy deadline is %v: it must not be negative", config.Deadline)
	}
	if config.MaxAbandoned < 0 {
		return nil, fmt.Errorf("policy max abandoned is %d: it must not be negative", config.MaxAbandoned)
	}
	if config.Deadline == 0 {
		config.Deadline = DefaultDeadline
	}
	if config.MaxAbandoned == 0 {
		config.MaxAbandoned = DefaultMaxAbandoned
	}
	log := config.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Engine{
		config:  config,
		log:     log,
		workers: make(chan struct{}, runtime.GOMAXPROCS(0)+config.MaxAbandoned),
		queue:   make(chan *evaluation),
	}, nil
}

// Activate compiles the organisation's bundle and puts it in force, all of it or
// nothing: a question is answered by the policies it started on. Where there is an error
// (a *BundleError if the bundle is at fault) the policy in force stays. The
// revision is returned as soon as it is known, also beside an error.
func (e *Engine) Activate(ctx context.Context, bundle Bundle) (revision string, err error) {
	e.activating.Lock()
	defer e.activating.Unlock()

	loaded, err := load(bundle)
	if err != nil {
		return "", fmt.Errorf("load policy from %s: %w", bundle.Source, err)
	}
	compiled, err := prepare(ctx, loaded)
	if err != nil {
		return loaded.revision, fmt.Errorf("compile policy from %s: %w", bundle.Source, err)
	}
	if err := ctx.Err(); err != nil {
		return loaded.revision, fmt.Errorf("activate policy from %s: %w", bundle.Source, err)
	}
	next := e.present()
	next.organisation = compiled
	e.active.Store(&next)
	return compiled.revision, nil
}

// Revision names the organisation's policy and data in force: "sha256:" and 64 hex digits, or
// empty where there is none.
func (e *Engine) Revision() string {
	if p := e.present().organisation; p != nil {
		return p.revision
	}
	return ""
}

// Ready reports why questions cannot be answered at present; nil where they can.
func (e *Engine) Ready(context.Context) error {
	if e.present().organisation == nil {
		return errors.New("no policy is in force")
	}
	if n := e.abandoned.Load(); n >= int64(e.config.MaxAbandoned) {
		return fmt.Errorf("%d policy evaluations ran past their deadline and do not return", n)
	}
	return nil
}

// Decide answers a question within the deadline. It has no error: whatever
// goes wrong is a Decision that denies and says so.
func (e *Engine) Decide(ctx context.Context, question execution.Question) execution.Decision {
	return e.decide(ctx, question, nil)
}

// logFailure keeps the error behind a denial where the operator finds it: the
// caller is told the code and no internals of the policy.
func (e *Engine) logFailure(ctx context.Context, id, revision string, failed *failure) {
	attrs := []slog.Attr{
		slog.String("execution", id), slog.String("revision", revision),
		slog.String("code", failed.reason.Code),
	}
	if failed.err != nil {
		attrs = append(attrs, slog.String("error", failed.err.Error()))
	}
	e.log.LogAttrs(ctx, slog.LevelError, "policy gave no valid answer", attrs...)
}
