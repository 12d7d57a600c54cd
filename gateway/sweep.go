package gateway

import (
	"context"
	"errors"
	"time"
)

// sweepInterval is how often what has expired is forgotten.
const sweepInterval = 10 * time.Minute

// sweep forgets executions and ended sessions that have expired, until ctx ends.
func (s *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := s.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "what has expired is not swept", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) sweepOnce(ctx context.Context) (err error) {
	defer s.recovered("sweep executions", &err)
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	err = errors.Join(s.executions.Sweep(ctx), s.remembered.Sweep(ctx))
	if s.approvals != nil {
		err = errors.Join(err, s.approvals.Sweep(ctx))
	}
	return err
}
