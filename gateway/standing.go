package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/execgate/execgate/execution"
)

// cancelWait is how long Cancel waits for the end of what it has cancelled.
const cancelWait = 10 * time.Second

var errCancelled = errors.New("cancelled by request")

// Standing is how an execution stands.
type Standing struct {
	ID    string
	State State
	// Body is, by State: of ended the 200 body, of failed and denied, and of expired
	// where it was not approved in time, a problem without its instance; of
	// awaiting_approval which approval, and until when; else nothing.
	Body []byte
	// Events is the id of the newest event.
	Events uint64
	// Again says that an earlier request with the same key began it.
	Again bool

	live *tracked // nil where it is over, and read from memory
}

// Wait returns how the execution stands when it is over, or an error when ctx
// ends before that, which does not end the execution.
func (st Standing) Wait(ctx context.Context) (Standing, error) {
	if st.live == nil {
		return st, nil
	}
	select {
	case <-st.live.done:
		again := st.Again
		st, err := st.live.standing()
		st.Again = again
		return st, err
	case <-ctx.Done():
		return st, gone(ctx)
	}
}

// Look returns how the execution called id stands. It is an error of
// KindNotFound where there is none, and where it is not for who to see: only
// the principal that asked for it may, and the admins of its tenant. An
// execution that was neither submitted nor is under way is not remembered.
func (s *Service) Look(ctx context.Context, who execution.Principal, id string) (Standing, error) {
	if !execution.ValidID(execution.PrefixExecution, id) {
		return Standing{}, executionNotFound()
	}
	if t := s.live.get(id); t != nil {
		st, err := t.standing()
		if err != nil || st.State == StateReserved || !maySee(who, t.owner.Tenant, t.owner.Subject) {
			return Standing{}, executionNotFound()
		}
		return st, nil
	}
	row, err := s.load(ctx, id)
	if err != nil {
		return Standing{}, err
	}
	if row.State == string(StateReserved) || !maySee(who, row.Tenant, row.Subject) {
		return Standing{}, executionNotFound()
	}
	return standingOf(row), nil
}

// standingOf is how an execution stands that is not live. One that is not over
// has been lost, and its body says so.
func standingOf(row Stored) Standing {
	st := Standing{ID: row.ID, State: State(row.State), Body: row.Body, Events: row.Events}
	if !st.State.over() && st.State != StateAwaiting {
		st.State = StateEnded
	}
	return st
}

// Cancel ends the execution called id, whether it runs or is queued, and returns
// once its end is recorded, or after 10 seconds with an end that is still to
// come (ended is false). It is an error of KindConflict where the execution had
// already come to another end, and otherwise the errors are those of Look.
func (s *Service) Cancel(ctx context.Context, who execution.Principal, id string) (ended bool, err error) {
	st, err := s.Look(ctx, who, id)
	if err != nil {
		return false, err
	}
	outcome := execution.Outcome("")
	if st.live == nil && st.State == StateAwaiting {
		return true, s.withdraw(ctx, who, id)
	}
	if st.live != nil {
		st.live.stop()
		late := time.NewTimer(cancelWait)
		defer late.Stop()
		select {
		case <-st.live.done:
			outcome = st.live.ending()
		case <-late.C:
			return false, nil
		case <-ctx.Done():
			return false, gone(ctx)
		}
	} else if st.State == StateEnded {
		outcome = outcomeOf(st.Body)
	}
	if outcome != execution.OutcomeCancelled {
		return true, &execution.Error{
			Kind: execution.KindConflict, Code: "execution_ended", Detail: "the execution is over, and was not cancelled",
		}
	}
	return true, nil
}

func outcomeOf(body []byte) execution.Outcome {
	var d struct {
		Outcome execution.Outcome `json:"outcome"`
	}
	if json.Unmarshal(body, &d) != nil {
		return ""
	}
	return d.Outcome
}

// maySee holds for the principal itself and for the admins of its tenant.
func maySee(who execution.Principal, tenant, subject string) bool {
	return who.Tenant == tenant && (who.Subject == subject || who.Has(execution.RoleAdmin))
}

func executionNotFound() error {
	return &execution.Error{Kind: execution.KindNotFound, Code: "execution_not_found", Detail: "there is no such execution"}
}
