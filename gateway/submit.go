package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/execgate/execgate/execution"
)

// keyKept is how long an idempotency key is kept, at least.
const keyKept = 24 * time.Hour

// lostEvents is the id of the last event of an execution that was lost: above
// all that can have been sent.
const lostEvents = 1 << 53

// Submit begins an execution that does not end with its caller: it goes on when
// ctx ends, and can be asked for by its id. With a key, of which the caller has
// at most one of a kind, it is begun once: whoever comes with the same key and
// the same request gets the first one, as it stands now.
//
// The order is: the key is durable, then the decision, then that the execution
// exists, and only then anything happens. Submit returns when it is decided. The
// decision is that of the policy then in force, however long it is queued.
//
// Errors are those of Execute until then, but for denials, which are Standings;
// and of kindUnprocessable where the key was used with another request, and
// KindUnavailable where the execution cannot be remembered. After an error
// nothing has run, and the key is free.
func (s *Service) Submit(ctx context.Context, call Call, key string) (Standing, error) {
	if err := somebody(call.Principal); err != nil {
		return Standing{}, err
	}
	sum, err := call.Request.SHA256()
	if err != nil {
		return Standing{}, internal("digest request", err)
	}
	// It is found at the second look, unless it was refused in between and is
	// free again.
	for range 3 {
		st, found, err := s.claim(ctx, call, key, sum)
		if found || err != nil {
			return st, err
		}
	}
	return Standing{}, &execution.Error{
		Kind: execution.KindUnavailable, Code: "idempotency_contended", RetryAfter: time.Second,
		Detail: "requests with this Idempotency-Key are refused one after the other",
	}
}

// claim begins the execution, or finds the one that holds the key.
func (s *Service) claim(ctx context.Context, call Call, key, sum string) (st Standing, found bool, err error) {
	now := time.Now()
	t := newTracked(execution.NewID(execution.PrefixExecution, now), call.Principal)
	t.feed = &feed{}
	// Whoever finds the key taken must find the execution too, so it is among
	// the live first.
	s.live.add(t)
	row := Stored{
		ID: t.id, Tenant: call.Principal.Tenant, Subject: call.Principal.Subject, Key: key, RequestSHA256: sum,
		Expires: now.Add(max(keyKept, s.keep)),
	}
	held, err := s.remember(ctx, "claim execution", func(ctx context.Context) (Stored, error) { return s.executions.Claim(ctx, row) })
	if err != nil {
		s.counters.refused(err)
		s.live.remove(t)
		return Standing{}, false, err
	}
	if held.ID == t.id {
		st, err := s.begin(ctx, call, row, t)
		return st, true, err
	}
	s.live.remove(t)
	if held.RequestSHA256 != sum {
		return Standing{}, false, &execution.Error{
			Kind: kindUnprocessable, Code: "idempotency_key_reused",
			Detail: "this Idempotency-Key was used with another request; use a new one",
		}
	}
	return s.again(ctx, held.ID)
}

// again is how the execution stands that an earlier request began. It is not
// found where it was refused before it was decided: then nothing happened.
func (s *Service) again(ctx context.Context, id string) (st Standing, found bool, err error) {
	if t := s.live.get(id); t != nil {
		select {
		case <-t.begun:
		case <-ctx.Done():
			return Standing{}, false, gone(ctx)
		}
		st, err = t.standing()
		st.Again = true
		return st, err == nil, nil
	}
	row, err := s.load(ctx, id)
	switch {
	case execution.KindOf(err) == execution.KindNotFound:
		return Standing{}, false, nil
	case err != nil:
		return Standing{}, false, err
	case row.State == string(StateReserved):
		// It was refused, and could not be forgotten then.
		return Standing{}, false, s.release(ctx, id)
	}
	st = standingOf(row)
	st.Again = true
	return st, true, nil
}

// begin sets an execution off that has been claimed, and returns when it is
// decided, or refused.
func (s *Service) begin(ctx context.Context, call Call, row Stored, t *tracked) (Standing, error) {
	if err := s.admission.hold(); err != nil {
		s.counters.refused(err)
		s.refuse(ctx, t, err)
		return Standing{}, err
	}
	go func() {
		defer s.admission.drop()
		var err error
		defer func() { // which changes nothing where attend has returned
			s.live.remove(t)
			t.finish(StateReserved, "", nil, err)
		}()
		defer s.recovered("attend an execution", &err)
		s.attend(context.WithoutCancel(ctx), call, row, t)
	}()
	select {
	case <-t.begun:
		return t.standing()
	case <-ctx.Done():
		return Standing{ID: t.id}, gone(ctx)
	}
}

// attend carries a claimed execution through Execute, tells its followers, and
// keeps what comes of it. It returns when all of that is done.
func (s *Service) attend(ctx context.Context, call Call, row Stored, t *tracked) {
	teller := &teller{}
	var unknown error // why it is not remembered; then it is not run
	call.tracked = t
	call.Decided = func(r Response) (err error) {
		if teller, err = newTeller(r); err != nil {
			return err
		}
		row.State, row.Events = string(StateQueued), lostEvents
		r.Result.Outcome = execution.OutcomeUnknownCrash // what is to be said if this process dies now
		r.Result.Session = execution.SessionEnded
		if row.Body, err = encodeExecution(r); err != nil {
			return err
		}
		unknown = s.save(ctx, row)
		return unknown
	}
	call.Events = func(e execution.Event) error {
		m, ok, err := teller.tell(e)
		if ok {
			t.feed.add(m)
		}
		return err
	}
	response, err := s.Execute(ctx, call)
	state, body, err := ending(response, err)
	if state == StateReserved || unknown != nil {
		s.conclude(ctx, call, StateReserved)
		s.refuse(ctx, t, cmp.Or(unknown, err))
		return
	}
	if state == StateAwaiting { // it is kept by its approval
		s.live.remove(t)
		t.finish(state, "", body, nil)
		return
	}
	last := message{kind: eventEnded, data: body, last: true}
	if state != StateEnded {
		last.kind = eventError
	}
	for _, m := range teller.rest() {
		t.feed.add(m)
	}
	row.State, row.Body, row.Events, row.Expires = string(state), body, t.feed.newest()+1, later(row, s.keep)
	if err := s.save(ctx, row); err != nil {
		// Those who wait now get the result all the same; after them it counts
		// as lost, as after a crash.
		s.log.ErrorContext(ctx, "result not kept", "execution", t.id, "error", err)
	}
	s.conclude(ctx, call, state)
	// Who has seen the last event finds it over.
	t.finish(state, response.Result.Outcome, body, nil)
	t.feed.add(last)
	s.live.remove(t)
}

// later is until when an execution that has ended is kept.
func later(row Stored, keep time.Duration) time.Time {
	end := time.Now().Add(keep)
	if row.Key != "" && row.Expires.After(end) {
		return row.Expires // a key is kept for its whole time
	}
	return end
}

// ending is the state that an execution has come to, and its body: the 200 body
// or a problem. The state is StateReserved, with the error, where it was refused
// before policy decided it, so that it may be tried again.
func ending(response Response, err error) (State, []byte, error) {
	state := StateFailed
	switch {
	case err == nil:
		body, encodeErr := encodeExecution(response)
		if encodeErr == nil {
			return StateEnded, body, nil
		}
		err = internal("encode response", encodeErr)
	case execution.KindOf(err) == execution.KindApprovalRequired:
		body, encodeErr := json.Marshal(err)
		if encodeErr == nil {
			return StateAwaiting, body, nil
		}
		err = internal("encode state", encodeErr)
	case execution.KindOf(err) == execution.KindDenied && len(response.Records) > 0:
		state = StateDenied
	case len(response.Records) == 0 || !response.Decision.Allowed():
		return StateReserved, nil, err
	}
	body, encodeErr := json.Marshal(problemOf(err, "", response.ID))
	if encodeErr != nil { // nothing in it can fail to be encoded
		body = []byte(`{"type":"` + problemType + `internal","status":500}`)
	}
	return state, body, nil
}
