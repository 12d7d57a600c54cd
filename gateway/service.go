package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/execgate/execgate/execution"
)

// What is meant by zero in a ServiceConfig.
const (
	defaultMaxRunning  = 16
	defaultMaxQueued   = 64
	defaultKeepResults = 24 * time.Hour
	defaultMaxSessions = 16
)

// ServiceConfig is what a Service is made of.
type ServiceConfig struct {
	Images  Images
	Decider Decider
	Lender  Lender
	// Secrets is told of what is lent; nil: nobody is.
	Secrets  Secrets
	Executor Executor
	Recorder Recorder
	// Inputs keeps what policy was asked; nil: nobody does.
	Inputs Inputs
	// Materials keeps what policy obliges to keep; nil: such obligations are not met.
	Materials Materials
	// Executions remembers those that are submitted.
	Executions Executions
	Sandboxes  Sandboxes
	// Sessions remembers which are open, and which have ended.
	Sessions Sessions
	Logger   *slog.Logger
	// Approvals keeps what awaits approval; nil: what needs one is denied.
	Approvals Approvals
	// Requesters knows who may still ask when that is approved; nil: everybody.
	Requesters Requesters
	// Webhooks are those that policies may name, and PendingWebhook the one of them
	// that is told what awaits approval; empty: none is.
	Webhooks       *Webhooks
	PendingWebhook string
	// Tools are those that can be called; nil: none.
	Tools *Tools
	// MaxRunning is how many executions run at once; zero is 16. One more is
	// refused with KindSaturated, or queued where its Call says so.
	MaxRunning int
	// MaxQueued is how many executions may wait for a slot, each with its whole
	// request in memory; zero is 64.
	MaxQueued int
	// Reserved are slots, out of MaxRunning, that only one tenant may use, and as
	// many places in the queue on top of MaxQueued. At least one slot is left to
	// everybody.
	Reserved map[string]int
	// KeepResults is how long a submitted execution is remembered past its end;
	// zero is 24 hours. A session that has ended is remembered for as long.
	KeepResults time.Duration
	// MaxSessions is how many sessions may be open at once, of all tenants; zero is
	// 16. A session takes no slot; what runs in it does.
	MaxSessions int
	// RecordBudget is how long one record may take to become durable before what waits
	// for it is refused; zero is 2 s.
	RecordBudget time.Duration
}

// Service carries executions through. It is safe for concurrent use.
type Service struct {
	images     Images
	decider    Decider
	lender     Lender
	secrets    Secrets
	executor   Executor
	records    *records
	executions Executions
	sandboxes  Sandboxes
	remembered Sessions
	keep       time.Duration
	log        *slog.Logger
	admission  *admission
	live       live
	sessions   *sessions
	counters   counters
	budgets    *budgets

	tools       *Tools
	materials   Materials
	approvals   Approvals
	requesters  Requesters
	webhooks    *Webhooks
	pendingHook string
	settling    busy
	changed     changed
	erasures    erasures
}

// NewService checks config and starts nothing. Every part is needed: there is
// no way through without a log, or without a policy.
func NewService(config ServiceConfig) (*Service, error) {
	switch {
	case config.Images == nil:
		return nil, errors.New("gateway service: no images")
	case config.Decider == nil:
		return nil, errors.New("gateway service: no decider")
	case config.Lender == nil:
		return nil, errors.New("gateway service: no lender")
	case config.Executor == nil:
		return nil, errors.New("gateway service: no executor")
	case config.Recorder == nil:
		return nil, errors.New("gateway service: no recorder")
	case config.Executions == nil:
		return nil, errors.New("gateway service: no executions")
	case config.Sandboxes == nil:
		return nil, errors.New("gateway service: no sandboxes")
	case config.Sessions == nil:
		return nil, errors.New("gateway service: no sessions")
	case config.Logger == nil:
		return nil, errors.New("gateway service: no logger")
	case config.PendingWebhook != "" && !config.Webhooks.has(config.PendingWebhook):
		return nil, fmt.Errorf("gateway service: there is no webhook %q to be told what awaits approval", config.PendingWebhook)
	case config.MaxSessions < 0 || config.MaxRunning < 0 || config.MaxQueued < 0 || min(config.KeepResults, config.RecordBudget) < 0:
		return nil, errors.New("gateway service: a bound is negative")
	}
	orDefault(&config.MaxRunning, defaultMaxRunning)
	orDefault(&config.MaxQueued, defaultMaxQueued)
	orDefault(&config.KeepResults, defaultKeepResults)
	orDefault(&config.MaxSessions, defaultMaxSessions)
	orDefault(&config.RecordBudget, defaultRecordBudget)
	left := config.MaxRunning
	for tenant, slots := range config.Reserved {
		if tenant == "" || slots < 1 || slots >= left {
			return nil, fmt.Errorf("gateway service: %d slots reserved for tenant %q: there must be a tenant, at least one, and one left of %d for everybody", slots, tenant, config.MaxRunning)
		}
		left -= slots
	}
	return &Service{
		budgets: newBudgets(),
		images:  config.Images, decider: config.Decider, lender: config.Lender, secrets: config.Secrets, executor: config.Executor,
		records:    &records{recorder: config.Recorder, inputs: config.Inputs, log: config.Logger, budget: config.RecordBudget},
		executions: config.Executions, keep: config.KeepResults,
		sandboxes: config.Sandboxes, remembered: config.Sessions, sessions: newSessions(config.MaxSessions),
		tools:     config.Tools,
		materials: config.Materials, approvals: config.Approvals, requesters: config.Requesters, webhooks: config.Webhooks, pendingHook: config.PendingWebhook,
		log: config.Logger, admission: newAdmission(config.MaxRunning, config.MaxQueued, config.Reserved),
	}, nil
}

// Call is one request for an execution, or for a session, by a principal that has
// been proven.
type Call struct {
	Principal execution.Principal
	Request   execution.Request // already checked for its form
	RequestID string
	TraceID   string // 32 hex digits, or empty

	// Queue lets the execution wait for a slot where it would be refused. It is
	// decided before it waits, and not again after.
	Queue bool
	// Decided is told, where it is not nil, that the execution was allowed and
	// that this is recorded, before anything else happens. Its error ends the
	// execution there.
	Decided func(Response) error
	// Events is execution.Job's.
	Events func(execution.Event) error

	tracked *tracked  // of a Submit
	resumed *resumed  // of what was approved
	tool    *toolCall // of a CallTool
}

// Response is what came of a Call. Beside an error it holds what is known: ID
// once the execution has one, Decision and Records once it was decided.
type Response struct {
	ID       string
	Session  string // the one that it ran in; Result says what became of it
	image    string // name of the image that was asked about
	Result   execution.Result
	Decision execution.Decision
	Leases   []execution.Lease
	binding  *execution.ApprovalBinding // of what awaits approval
	duties   duties                     // of what is allowed
	Records  []uint64                   // sequence numbers: of the decision, then of the end
	decided  time.Time                  // when the decision was durable
}

// Recall counts what was allowed, lent, and ended, in an earlier life of the gateway,
// for the budgets that policies keep. It is for records of the last hour, before the
// first request.
func (s *Service) Recall(r execution.Record) { s.budgets.recall(r, time.Now()) }
