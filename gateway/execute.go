package gateway

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/execgate/execgate/execution"
)

// cleanupTimeout bounds the taking back of leases. It runs whatever became of
// the request, so it has its own time.
const cleanupTimeout = 10 * time.Second

// Execute decides call, runs what was allowed, and returns once the end is
// durable in the log. Before the decision is durable nothing with a side effect
// happens; from then on, whatever happens, what was lent is taken back and the
// end is recorded. When ctx ends the program is stopped and its Result has the
// outcome cancelled.
//
// Errors are execution.Errors: KindSaturated, KindUnavailable (draining,
// engine_unavailable, policy_timeout, policy_not_loaded, audit_unavailable: the result, if there is one, is
// withheld), KindNotFound or KindInvalid for an unknown image or language,
// KindDenied with reasons, KindApprovalRequired for what is kept until it is
// approved, KindTooLarge for what the log cannot record, and KindInternal. Of an execution in a session also KindNotFound, KindGone
// (session_ended), KindConflict (session_busy), and KindInvalid for what does not
// fit the session.
func (s *Service) Execute(ctx context.Context, call Call) (Response, error) {
	if err := somebody(call.Principal); err != nil {
		return Response{}, err
	}
	place, err := s.admission.enter(call.Principal.Tenant, call.Queue)
	if err != nil {
		s.counters.refused(err)
		return Response{}, err
	}
	defer s.admission.leave(place)
	ctx, cancel, release := s.admission.bound(ctx)
	defer release()

	asked := call.Request
	turn, err := s.turn(ctx, &call, cancel)
	if err != nil {
		return Response{}, err
	}
	defer turn.leave()
	if err := s.takeUp(ctx, call); err != nil {
		return Response{}, err
	}
	charge := s.budgets.charge(call.Principal.Owner(), time.Now(), len(call.Request.Tools))
	response, err := s.judge(ctx, call, call.action(), turn.in(), charge.seen)
	if err != nil {
		charge.giveBack()
		return response, err
	}
	if response.binding != nil {
		charge.giveBack() // it is charged anew when it has been approved
		return s.park(ctx, call, asked, response)
	}
	var used execution.Usage
	var lent int
	defer func() { charge.end(time.Now(), used, lent) }()
	decided := response.Records[0]

	s.counters.started.Add(1)
	var outcome execution.Outcome // once it is recorded
	t := call.tracked
	if t == nil {
		t = attended(response.ID, call.Principal)
		s.live.add(t)
		defer func() { s.live.remove(t); t.finish(StateEnded, outcome, nil, nil) }()
	}
	t.cancellable(cancel)

	var runErr error
	response.Result, response.Leases, runErr = s.carry(ctx, call, response, place, t)
	used, lent = response.Result.Usage, len(response.Leases)
	endErr := runErr
	if runErr == nil {
		endErr = s.holdOutput(ctx, response.duties.hold, response.Result)
	}
	s.counters.ended(response.Result, endErr)
	ended, recordErr := s.records.ended(ctx, call, response.ID, decided, response, endErr)
	// The record of the session's end, if it has come to that, is after this one.
	response.Result.Session = turn.end(response.Result, runErr)
	if recordErr != nil {
		// What nobody could look up later did not happen for the caller either.
		s.counters.auditFailed.Add(1)
		return Response{ID: response.ID, Decision: response.Decision, Records: response.Records}, recordErr
	}
	response.Records = append(response.Records, ended)
	if endErr != nil {
		s.counters.engineFailed.Add(1)
		response.Result = execution.Result{}
		return response, engineError(endErr)
	}
	outcome = response.Result.Outcome
	return response, nil
}

// judge asks policy whether call may be carried out, in the session in where that
// is not nil, and makes the answer durable. Where it may not, that is the error;
// the response holds what is known.
func (s *Service) judge(ctx context.Context, call Call, action execution.Action, in *session, used seen) (Response, error) {
	question, err := s.question(ctx, call, action, used)
	if err != nil && execution.KindOf(err) != execution.KindUnavailable {
		return Response{}, err // it could not even be asked
	}
	response := Response{ID: question.ID, Session: call.Request.Session, image: question.Image.Name}
	if err != nil {
		response.Decision = execution.Deny("", execution.Reason{
			Code: execution.CodeEngineUnavailable, Message: "the container engine does not answer",
		})
	} else {
		response.Decision = call.resumed.hold(question, s.decide(ctx, question, in))
		var off error
		if response.Decision, off = call.tool.settle(response.Decision); off != nil {
			return Response{}, off
		}
		response.duties, response.Decision = s.oblige(response.Decision)
	}

	hold := &response.duties.hold
	decided, recordErr := s.records.decided(ctx, call, question, response.Decision, hold.any())
	if recordErr != nil {
		response.duties.drop()
		s.counters.auditFailed.Add(1)
		return Response{ID: question.ID}, recordErr
	}
	response.Records, response.decided = append(response.Records, decided), time.Now()
	if hold.any() {
		hold.in = decidedInput(decided, call, question, response.Decision)
	}
	response.Decision.Asked = nil // whoever keeps it has it
	s.counters.decisions.add(Decided{action, response.Decision.Effect})
	if response.Decision.Effect == execution.EffectRequireApproval {
		binding := bindingOf(question, response.Decision)
		response.binding = &binding
		return response, nil
	}
	if !response.Decision.Allowed() {
		s.counters.denied.Add(1)
		if err != nil {
			return response, engineUnavailable(err, response.Decision.Reasons)
		}
		return response, call.tool.hide(denied(response.Decision))
	}
	response.duties.notify(question, response.Decision)
	return response, nil
}

func somebody(p execution.Principal) error {
	if p.Subject == "" || p.Tenant == "" {
		return internal("execute", errors.New("the principal has no subject or no tenant"))
	}
	return nil
}

// idOf is the id that a Submit gave the execution, and else a new one.
func idOf(call Call, action execution.Action, now time.Time) string {
	switch {
	case call.tracked != nil:
		return call.tracked.id
	case action == execution.ActionSession:
		return execution.NewID(execution.PrefixSession, now)
	}
	return execution.NewID(execution.PrefixExecution, now)
}

// question resolves the image and puts together what policy is asked. Its error
// is of KindUnavailable where the engine does not answer; the question then
// stands, but for the image.
func (s *Service) question(ctx context.Context, call Call, action execution.Action, used seen) (execution.Question, error) {
	sum, err := call.Request.SHA256()
	if err != nil {
		return execution.Question{}, internal("digest request", err)
	}
	now := time.Now().UTC()
	q := execution.Question{
		ID: idOf(call, action, now), Time: now, TraceID: call.TraceID,
		Principal: call.Principal, Action: action,
		Request: call.Request, RequestSHA256: sum, Counters: used.tenant, PrincipalCounters: used.principal,
		Approval: call.resumed.given(), Tool: call.toolCalled(),
	}
	image, err := s.imageOf(ctx, call)
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

// imageOf is the image that call means.
func (s *Service) imageOf(ctx context.Context, call Call) (execution.Image, error) {
	if call.tool != nil {
		return s.imageOfTool(ctx, call.tool)
	}
	return s.resolve(ctx, call.Request)
}

func (s *Service) resolve(ctx context.Context, r execution.Request) (image execution.Image, err error) {
	defer s.recovered("resolve image", &err)
	return s.images.Resolve(ctx, r.Language, r.Image)
}

// carry waits for a slot and runs what was allowed, while t says how far it is.
func (s *Service) carry(ctx context.Context, call Call, allowed Response, place *place, t *tracked) (execution.Result, []execution.Lease, error) {
	if err := s.holdRequest(ctx, call, allowed.duties.hold); err != nil {
		return execution.Result{}, nil, err
	}
	if call.Decided != nil {
		if err := s.tell(call, allowed); err != nil {
			return execution.Result{}, nil, err
		}
	}
	select {
	case <-place.ready:
	default:
		t.enter(StateQueued)
		place.wait(ctx)
	}
	t.enter(StateRunning)
	job := execution.NewJob(allowed.ID, call.Principal.Owner(), call.Request, allowed.Decision.Grant)
	job.Roles, job.Method = call.Principal.Roles, call.Principal.Method
	job.RequestID, job.TraceID = call.RequestID, call.TraceID
	if call.tool != nil {
		job.Tool, job.Call, job.Parent = call.tool.Name, call.tool.makes, call.tool.parent
	}
	job.Started = s.beginning(call, allowed)
	tell, rest := allowed.duties.events(call.Events)
	if tell != nil {
		job.Events = s.guarded(tell)
	}
	result, leases, err := s.run(ctx, job)
	return s.redacted(allowed.duties, result, rest), leases, err
}

// guarded is events without its panics: a goroutine of the executor calls it,
// which a panic would end with everything else.
func (s *Service) guarded(events func(execution.Event) error) func(execution.Event) error {
	return func(e execution.Event) (err error) {
		defer s.recovered("tell of an event", &err)
		return events(e)
	}
}

func (s *Service) tell(call Call, allowed Response) (err error) {
	defer s.recovered("tell of the decision", &err)
	return call.Decided(allowed)
}

// run lends, executes and takes back. It never panics, and what was lent is
// taken back whatever happens.
func (s *Service) run(ctx context.Context, job execution.Job) (result execution.Result, leases []execution.Lease, err error) {
	defer s.recovered("execute", &err)
	if ctx.Err() != nil {
		return execution.Result{Outcome: execution.OutcomeCancelled}, nil, nil
	}
	in := s.sessions.get(job.Session) // nil: it is in none
	if len(job.Grant.Credentials) > 0 {
		// The duty to revoke begins with the attempt: a Lend that fails or
		// panics half-way may have lent.
		defer func() {
			leases = s.revoke(ctx, job.ID, leases)
			in.forget(job.Exposed, leases)
		}()
		lent, err := s.lender.Lend(ctx, execution.Loan{
			Execution: job.ID, Principal: job.Principal(), RequestID: job.RequestID, TraceID: job.TraceID,
			Credentials: job.Grant.Credentials, Lasts: lasts(job.Grant.Limits),
		})
		leases, job.Exposed = lent.Leases, lent.Exposed
		if err != nil {
			return execution.Result{}, leases, err
		}
	}
	if known := in.known(job.Exposed); len(known) > 0 {
		scrubber, err := newScrubber(known, job.Events)
		if err != nil {
			return execution.Result{}, leases, err
		}
		in.give(job.Exposed)
		if s.secrets != nil {
			s.secrets.Add(job.ID, scrubber.set)
			defer s.secrets.Remove(job.ID)
		}
		job.Events = scrubber.events()
		defer func() { result, err = s.scrubbed(scrubber, result, err) }()
	}
	result, err = s.executor.Execute(ctx, job)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return execution.Result{Outcome: execution.OutcomeCancelled, Session: result.Session, Usage: result.Usage}, leases, nil
	case err != nil: // what was used counts all the same
		return execution.Result{Session: result.Session, Usage: result.Usage}, leases, err
	case result.Outcome == "":
		return execution.Result{}, leases, errors.New("the executor reported no outcome")
	}
	return result, leases, nil
}

// beside is what an execution takes beside its program: a cold start, a stop, and
// what is done at its end.
const beside = time.Minute

// lasts is the longest that an execution can need what it was lent.
func lasts(l execution.Limits) time.Duration {
	return time.Duration(l.TimeoutMS)*time.Millisecond + beside
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
