package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/execgate/execgate/execution"
)

// storeTimeout bounds one look into what is remembered, or one change of it.
const storeTimeout = 5 * time.Second

// refuse forgets an execution that was not decided.
func (s *Service) refuse(ctx context.Context, t *tracked, why error) {
	if err := s.release(ctx, t.id); err != nil {
		s.log.ErrorContext(ctx, "execution not released", "execution", t.id, "error", err)
	}
	s.live.remove(t)
	t.finish(StateReserved, "", nil, why)
}

func (s *Service) release(ctx context.Context, id string) error {
	_, err := s.remember(ctx, "release execution", func(ctx context.Context) (Stored, error) {
		return Stored{}, s.executions.Release(ctx, id)
	})
	return err
}

func (s *Service) load(ctx context.Context, id string) (Stored, error) {
	return s.remember(ctx, "load execution", func(ctx context.Context) (Stored, error) { return s.executions.Load(ctx, id) })
}

func (s *Service) save(ctx context.Context, row Stored) error {
	_, err := s.remember(ctx, "save execution", func(ctx context.Context) (Stored, error) {
		return Stored{}, s.executions.Save(ctx, row)
	})
	return err
}

// remember calls do with time of its own: a caller that hangs up must not leave
// half of it. Of its errors only KindSaturated and KindNotFound are told.
func (s *Service) remember(ctx context.Context, doing string, do func(context.Context) (Stored, error)) (row Stored, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	defer s.recovered(doing, &err)
	row, err = do(ctx)
	if err == nil {
		return row, nil
	}
	if e, ok := errors.AsType[*execution.Error](err); ok && (e.Kind == execution.KindSaturated || e.Kind == execution.KindNotFound) {
		return Stored{}, e
	}
	return Stored{}, &execution.Error{
		Kind: execution.KindUnavailable, Code: "executions_unavailable",
		Detail: "executions cannot be remembered now", RetryAfter: 5 * time.Second, Err: err,
	}
}
