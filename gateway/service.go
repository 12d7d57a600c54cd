package gateway

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/execgate/execgate/execution"
)

// cleanupTimeout bounds the taking back of leases. It runs whatever became of
// the request, so it has its own time.
const cleanupTimeout = 10 * time.Second

// defaultMaxRunning is the number of executions that run at once.
const defaultMaxRunning = 16

// ServiceConfig is what a Service is made of.
type ServiceConfig struct {
	Images   Images
	Decider  Decider
	Lender   Lender
	Executor Executor
	Recorder Recorder
	Logger   *slog.Logger
	// MaxRunning is how many executions may be under way at once; zero is 16.
	// One more is refused with KindSaturated, and nothing is queued.
	MaxRunning int
}

// Service carries executions through. It is safe for concurrent use.
type Service struct {
	images    Images
	decider   Decider
	lender    Lender
	executor  Executor
	records   *records
	log       *slog.Logger
	admission *admission
	counters  counters
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
	case config.Logger == nil:
		return nil, errors.New("gateway service: no logger")
	case config.MaxRunning < 0:
		return nil, errors.New("gateway service: max running is negative")
	}
	if config.MaxRunning == 0 {
		config.MaxRunning = defaultMaxRunning
	}
	return &Service{
		images: config.Images, decider: config.Decider, lender: config.Lender, executor: config.Executor,
		records: &records{recorder: config.Recorder, log: config.Logger},
		log:     config.Logger, admission: newAdmission(config.MaxRunning),
	}, nil
}

// Call is one request for an execution, by a principal that has been proven.
type Call struct {
	Principal execution.Principal
	Request   execution.Request // already checked for its form
	RequestID string
	TraceID   string // 32 hex digits, or empty
}

// Response is what came of a Call. Beside an error it holds what is known: ID
// once the execution has one, Decision and Records once it was decided.
type Response struct {
	ID       string
	Result   execution.Result
	Decision execution.Decision
	Leases   []execution.Lease
	Records  []uint64 // sequence numbers: of the decision, then of the end
}

// Execute decides call, runs what was allowed, and returns once the end is
// durable in the log. Before the decision is durable nothing with a side effect
// happens; from then on, whatever happens, what was lent is taken back and the
// end is recorded. When ctx ends the program is stopped and its Result has the
// outcome cancelled.
//
// Errors are execution.Errors: KindSaturated, KindUnavailable (draining,
// engine_unavailable, audit_unavailable: the result, if there is one, is
// withheld), KindNotFound or KindInvalid for an unknown image or language,
// KindDenied with reasons, and KindInternal.
func (s *Service) Execute(ctx context.Context, call Call) (Response, error) {
	if call.Principal.Subject == "" || call.Principal.Tenant == "" {
		return Response{}, internal("execute", errors.New("the principal has no subject or no tenant"))
	}
	others, err := s.admission.enter(call.Principal.Tenant)
	if err != nil {
		s.counters.refused(err)
		return Response{}, err
	}
	defer s.admission.leave(call.Principal.Tenant)
	ctx, release := s.admission.bound(ctx)
	defer release()

	question, err := s.question(ctx, call, others)
	if err != nil && execution.KindOf(err) != execution.KindUnavailable {
		return Response{}, err // it could not even be asked
	}
	response := Response{ID: question.ID}
	if err != nil {
		response.Decision = execution.Deny("", execution.Reason{
			Code: execution.CodeEngineUnavailable, Message: "the container engine does not answer",
		})
	} else {
		response.Decision = s.decide(ctx, question)
	}

	decided, recordErr := s.records.decided(ctx, call, question, response.Decision)
	if recordErr != nil {
		s.counters.auditFailed.Add(1)
		return Response{ID: question.ID}, recordErr
	}
	response.Records = append(response.Records, decided)
	if !response.Decision.Allowed() {
		s.counters.denied.Add(1)
		if err != nil {
			return response, engineUnavailable(err, response.Decision.Reasons)
		}
		return response, denied(response.Decision)
	}

	s.counters.started.Add(1)
	var runErr error
	response.Result, response.Leases, runErr = s.run(ctx, question.ID, call.Request, response.Decision.Grant)
	ended, recordErr := s.records.ended(ctx, call, question.ID, decided, response, runErr)
	if recordErr != nil {
		// What nobody could look up later did not happen for the caller either.
		s.counters.auditFailed.Add(1)
		return Response{ID: question.ID, Decision: response.Decision, Records: response.Records}, recordErr
	}
	response.Records = append(response.Records, ended)
	if runErr != nil {
		s.counters.engineFailed.Add(1)
		response.Result = execution.Result{}
		return response, engineError(runErr)
	}
	return response, nil
}

// question resolves the image and puts together what policy is asked. Its error
// is of KindUnavailable where the engine does not answer; the question then
// stands, but for the image.
func (s *Service) question(ctx context.Context, call Call, others int) (execution.Question, error) {
	sum, err := call.Request.SHA256()
	if err != nil {
		return execution.Question{}, internal("digest request", err)
	}
	now := time.Now().UTC()
	q := execution.Question{
		ID: execution.NewID(execution.PrefixExecution, now), Time: now, TraceID: call.TraceID,
		Principal: call.Principal, Action: execution.ActionExecute,
		Request: call.Request, RequestSHA256: sum, Running: others,
	}
	image, err := s.resolve(ctx, call.Request)
	switch {
	case err == nil:
		q.Image = image
		return q, nil
	case ctx.Err() != nil:
		return execution.Question{}, gone(ctx)
	}
	switch execution.KindOf(err) {
	case execution.KindNotFound, execution.KindInvalid:
		return execution.Question{}, err
	case execution.KindUnavailable:
		q.Image.Name = call.Request.Image
		return q, err
	default:
		return execution.Question{}, internal("resolve image", err)
	}
}

func (s *Service) resolve(ctx context.Context, r execution.Request) (image execution.Image, err error) {
	defer s.recovered("resolve image", &err)
	return s.images.Resolve(ctx, r.Language, r.Image)
}

// run lends, executes and takes back. It never panics, and what was lent is
// taken back whatever happens.
func (s *Service) run(ctx context.Context, id string, r execution.Request, g execution.Grant) (result execution.Result, leases []execution.Lease, err error) {
	defer s.recovered("execute", &err)
	if ctx.Err() != nil {
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil, nil
	}
	if len(g.Credentials) > 0 {
		// The duty to revoke begins with the attempt: a Lend that fails or
		// panics half-way may have lent.
		defer func() { leases = s.revoke(ctx, id, leases) }()
		if leases, err = s.lender.Lend(ctx, id, g.Credentials); err != nil {
			return execution.Result{}, leases, err
		}
	}
	result, err = s.executor.Execute(ctx, execution.NewJob(id, r, g))
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return execution.Result{Outcome: execution.OutcomeCancelled}, leases, nil
	case err != nil:
		return execution.Result{}, leases, err
	case result.Outcome == "":
		return execution.Result{}, leases, errors.New("the executor reported no outcome")
	}
	return result, leases, nil
}

// revoke takes back what was lent to the execution and returns the leases as
// they are now. What could not be taken back is known by Revoked being false;
// the lender goes on trying.
func (s *Service) revoke(ctx context.Context, id string, lent []execution.Lease) (now []execution.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var err error
	defer func() {
		if err != nil {
			s.counters.revokeFailed.Add(1)
			s.log.ErrorContext(ctx, "leases not revoked", "execution", id, "error", err)
			now = lent
		}
	}()
	defer s.recovered("revoke leases", &err)
	now, err = s.lender.Revoke(ctx, id)
	return now
}

// recovered turns a panic of one part into its error, and the stack into a line
// of the log. It is deferred directly.
func (s *Service) recovered(doing string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("panic", "doing", doing, "panic", p, "stack", string(debug.Stack()))
		*err = &execution.Error{Kind: execution.KindInternal, Code: "panic", Err: errors.New(doing + ": panic")}
	}
}
