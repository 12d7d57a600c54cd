package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/execgate/execgate/execution"
)

// closeSandboxTimeout bounds the ending of a session's sandbox.
const closeSandboxTimeout = 10 * time.Second

// Opened is a session that was opened.
type Opened struct {
	SessionStanding
	Decision execution.Decision
	Records  []uint64 // of the decision, then of the opening
}

// OpenSession decides call, whose request has a language or an image, limits, a
// runtime and metadata, and opens a session for its principal. It takes no slot of
// executions. The order is that of Execute: nothing happens before the decision is
// durable, and once the session is open it ends with a record, whatever happens.
//
// Errors are those of Execute; KindSaturated (sessions_saturated) where there are
// as many as there may be, of the gateway or, once it is decided, of the tenant.
// The id stands in what is returned beside an error too, once there is one.
func (s *Service) OpenSession(ctx context.Context, call Call) (Opened, error) {
	if err := somebody(call.Principal); err != nil {
		return Opened{}, err
	}
	if err := s.sessions.enter(); err != nil {
		s.counters.refused(err)
		return Opened{}, err
	}
	if err := s.admission.hold(); err != nil {
		s.sessions.leave()
		s.counters.refused(err)
		return Opened{}, err
	}
	opened, o, err := s.open(ctx, call)
	if err != nil {
		s.admission.drop()
		s.sessions.leave()
		return opened, err
	}
	opened.SessionStanding = o.standing()
	go s.keepOpen(context.WithoutCancel(ctx), o)
	return opened, nil
}

// open does the work of OpenSession. After an error nothing is left.
func (s *Service) open(ctx context.Context, call Call) (Opened, *session, error) {
	ctx, _, release := s.admission.bound(ctx)
	defer release()
	response, err := s.judge(ctx, call, execution.ActionSession, nil, s.budgets.see(call.Principal.Owner(), time.Now()))
	opened := Opened{Decision: response.Decision, Records: response.Records}
	opened.ID = response.ID
	if err != nil {
		return opened, nil, err
	}
	if err := s.holdRequest(ctx, call, response.duties.hold); err != nil {
		return opened, nil, err
	}
	grant := response.Decision.Grant
	o := newSession(response.ID, response.image, call, grant)
	if err := s.sessions.add(o, grant.Session.Max); err != nil {
		s.counters.refused(err)
		return opened, nil, err
	}
	if err := s.begun(ctx, o, &opened); err != nil {
		s.closeSandbox(ctx, o)
		s.sessions.remove(o)
		return opened, nil, err
	}
	return opened, o, nil
}

// begun opens the sandbox and has it remembered and recorded that it is open.
func (s *Service) begun(ctx context.Context, o *session, opened *Opened) error {
	if err := s.openSandbox(ctx, o); err != nil {
		if ctx.Err() != nil {
			return goneOpening(ctx)
		}
		if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindInvalid {
			return e // what was granted holds no sandbox
		}
		s.counters.engineFailed.Add(1)
		return engineError(err)
	}
	switch why, _ := o.ending(); {
	case why != "":
		return errDraining()
	case ctx.Err() != nil: // nobody would ever learn its id
		return goneOpening(ctx)
	}
	now := time.Now()
	row := StoredSession{
		ID: o.id, Owner: o.asked.Principal, Created: now,
		Expires: now.Add(time.Duration(o.grant.Session.AbsoluteS) * time.Second),
	}
	if err := s.recall(ctx, "add session", func(ctx context.Context) error { return s.remembered.Add(ctx, row) }); err != nil {
		return err
	}
	seq, err := s.records.session(ctx, o.asked, execution.SessionChange{ID: o.id, What: execution.SessionOpened})
	if err != nil {
		s.counters.auditFailed.Add(1)
		if err := s.recall(ctx, "remove session", func(ctx context.Context) error { return s.remembered.Remove(ctx, o.id) }); err != nil {
			s.log.ErrorContext(ctx, "session not forgotten", "session", o.id, "error", err)
		}
		return err
	}
	opened.Records = append(opened.Records, seq)
	o.start(now)
	return nil
}

func (s *Service) openSandbox(ctx context.Context, o *session) (err error) {
	defer s.recovered("open session", &err)
	return s.sandboxes.OpenSession(ctx, execution.Session{
		ID: o.id, Owner: o.asked.Principal.Owner(), Language: o.language, Grant: o.grant,
	})
}

// closeSandbox ends the sandbox of o, or what a failed opening left of one.
func (s *Service) closeSandbox(ctx context.Context, o *session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeSandboxTimeout)
	defer cancel()
	var err error
	defer func() {
		if err != nil {
			s.log.ErrorContext(ctx, "the sandbox of a session is not closed", "session", o.id, "error", err)
		}
	}()
	defer s.recovered("close session", &err)
	err = s.sandboxes.CloseSession(ctx, o.id)
}

// keepOpen keeps o until it is to end, ends it, and returns when that is recorded.
func (s *Service) keepOpen(ctx context.Context, o *session) {
	defer s.admission.drop()
	defer close(o.done) // who has waited for it finds its place free
	defer s.sessions.leave()
	defer s.sessions.remove(o)
	o.await()
	o.settle(s.admission.stop)
	s.closeSandbox(ctx, o)
	why, by := o.ending()
	if by.Principal.Subject == "" { // nobody did: its time was up, or the gateway's
		by = Call{Principal: o.asked.Principal}
	}
	o.err = s.recordEnd(ctx, o.id, why, by)
	s.log.LogAttrs(ctx, slog.LevelDebug, "session ended", slog.String("session", o.id), slog.String("reason", string(why)))
}

// recordEnd records and remembers that a session has ended. One whose end cannot
// be recorded is left open in memory, so that the next start tries again; it is
// none all the same, because it is not among the open ones.
func (s *Service) recordEnd(ctx context.Context, id string, why execution.SessionEnd, by Call) error {
	if _, err := s.records.session(ctx, by, execution.SessionChange{ID: id, What: execution.SessionClosed, Reason: why}); err != nil {
		s.counters.auditFailed.Add(1)
		s.log.ErrorContext(ctx, "the end of a session is not recorded", "session", id, "error", err)
		return err
	}
	expires := time.Now().Add(s.keep)
	if err := s.recall(ctx, "end session", func(ctx context.Context) error { return s.remembered.End(ctx, id, why, expires) }); err != nil {
		s.log.ErrorContext(ctx, "the end of a session is not remembered", "session", id, "error", err)
	}
	return nil
}

// closeLeft ends the sessions that were open when the gateway died. Their
// sandboxes are gone.
func (s *Service) closeLeft(ctx context.Context) error {
	var left []StoredSession
	if err := s.recall(ctx, "read sessions", func(ctx context.Context) (err error) {
		left, err = s.remembered.Left(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, row := range left {
		if err := s.recordEnd(ctx, row.ID, execution.SessionCrashed, Call{Principal: row.Owner}); err != nil {
			return err
		}
	}
	return nil
}

// recall is remember for sessions.
func (s *Service) recall(ctx context.Context, doing string, do func(context.Context) error) error {
	_, err := s.remember(ctx, doing, func(ctx context.Context) (Stored, error) { return Stored{}, do(ctx) })
	if e, ok := err.(*execution.Error); ok && e.Code == "executions_unavailable" {
		e.Code, e.Detail = "sessions_unavailable", "sessions cannot be remembered now"
	}
	return err
}

func goneOpening(ctx context.Context) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "cancelled", Detail: "cancelled before it was open",
		RetryAfter: time.Second, Err: context.Cause(ctx),
	}
}

func errSessionsSaturated(detail string) error {
	return &execution.Error{Kind: execution.KindSaturated, Code: "sessions_saturated", Detail: detail, RetryAfter: 5 * time.Second}
}
