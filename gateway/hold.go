package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// maxRetainDays bounds the obligation retain.
const maxRetainDays = 3660

// holding is what the obligations retain and record_full have kept of one execution.
// The zero holding is nothing.
type holding struct {
	days int  // to retain; zero: as long as any input
	full bool // request and output
	must bool // or nothing is run, and nothing answered
	in   DecidedInput
}

func (h holding) any() bool { return h.days > 0 || h.full }

func (h holding) until() time.Time {
	if h.days == 0 {
		return time.Time{}
	}
	return h.in.Time.AddDate(0, 0, h.days)
}

// obligeHold readies one obligation. Of several that retain the longest counts.
func (s *Service) obligeHold(o execution.Obligation, h *holding) (code, problem string) {
	if s.materials == nil {
		return execution.CodePolicyUnsupported, "nothing is kept here, as policy.inputs.retain_days is 0"
	}
	f := &faults{}
	days := 0
	if args := o.Args; len(args) > 0 || o.Type == obligationRetain {
		if m := splitObject(args, "", f); m != nil {
			if o.Type == obligationRetain {
				days, _ = take[int](m, "", "days", f)
			}
			m.rest("", f)
		}
	}
	switch {
	case len(f.fields) > 0:
		return "", f.fields[0].Pointer + " " + f.fields[0].Detail
	case o.Type == obligationRetain && (days < 1 || days > maxRetainDays):
		return "", fmt.Sprintf("days must be from 1 to %d", maxRetainDays)
	}
	h.days = max(h.days, days)
	h.full = h.full || o.Type == obligationFull
	h.must = h.must || o.Must
	return "", ""
}

// holdRequest keeps what must be before anything is done for call.
func (s *Service) holdRequest(ctx context.Context, call Call, h holding) error {
	if !h.any() {
		return nil
	}
	err := s.holdNow(ctx, "hold request", func(ctx context.Context) error {
		if h.in.Asked == nil {
			return errors.New("it is not known what policy was asked")
		}
		var request []byte
		if h.full {
			var err error
			if request, err = json.Marshal(call.Request); err != nil { // as it is hashed for the record
				return fmt.Errorf("encode request: %w", err)
			}
		}
		return s.materials.HoldRequest(ctx, h.in, h.until(), request)
	})
	if err != nil {
		keep(ctx, s.records.inputs, s.log, h.in) // it can be replayed all the same
	}
	return s.unheld(ctx, h, err)
}

// outputMaterial is what record_full keeps of a result, as the caller has it.
type outputMaterial struct {
	Outcome   execution.Outcome   `json:"outcome"`
	ExitCode  *int                `json:"exit_code"`
	Stdout    []byte              `json:"stdout"`
	Stderr    []byte              `json:"stderr"`
	Value     json.RawMessage     `json:"result"`
	ValueErr  string              `json:"result_error,omitempty"`
	Truncated execution.Truncated `json:"truncated"`
}

// holdOutput keeps what must be of a result before its end is recorded.
func (s *Service) holdOutput(ctx context.Context, h holding, r execution.Result) error {
	if !h.full {
		return nil
	}
	return s.unheld(ctx, h, s.holdNow(ctx, "hold output", func(ctx context.Context) error {
		output, err := json.Marshal(outputMaterial{r.Outcome, r.ExitCode, r.Stdout, r.Stderr, r.Value, r.ValueError, r.Truncated})
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		return s.materials.HoldOutput(ctx, h.in, h.until(), output)
	}))
}

// holdTimeout bounds what is held, whatever becomes of the request.
const holdTimeout = 10 * time.Second

// holdNow does what keeps something, in a time of its own.
func (s *Service) holdNow(ctx context.Context, doing string, do func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdTimeout)
	defer cancel()
	defer s.recovered(doing, &err)
	return do(ctx)
}

// unheld is what comes of err, by which something was not kept: where that must be it
// is an error of KindUnavailable, obligation_failed.
func (s *Service) unheld(ctx context.Context, h holding, err error) error {
	if err == nil {
		return nil
	}
	if !h.must {
		s.log.WarnContext(ctx, "an obligation that need not be met is not met", "execution", h.in.ID, "error", err)
		return nil
	}
	detail := "what policy has kept of each request cannot be kept now"
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Detail != "" {
		detail += ": " + e.Detail
	}
	return &execution.Error{Kind: execution.KindUnavailable, Code: codeObligationFailed, Detail: detail, RetryAfter: 5 * time.Second, Err: err}
}
