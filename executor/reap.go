package executor

import (
	"context"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
)

// reapInterval is how often abandoned containers are looked for.
const reapInterval = 30 * time.Second

// reapRetry is how soon after a failure it is tried again.
const reapRetry = time.Second

func (e *Executor) reapUntil(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.leftover:
			timer.Reset(reapRetry)
		case <-timer.C:
			wait := reapInterval
			if err := e.Reap(ctx); err != nil && ctx.Err() == nil {
				e.cfg.Logger.Warn("abandoned sandboxes are not reaped yet", "error", err)
				wait = reapRetry
			}
			timer.Reset(wait)
		}
	}
}

// hasLeft tells the reaper of a container that could not be removed.
func (e *Executor) hasLeft() {
	select {
	case e.leftover <- struct{}{}:
	default: // it has been told
	}
}

// Reap removes this gateway's containers that belong to no running execution,
// and anyone's that are past their deadline. It returns the first error, after
// having tried all.
func (e *Executor) Reap(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	cli := e.engines.cli
	if err := e.engines.ping(ctx); err != nil {
		return err
	}
	list, err := cli.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelGateway))})
	if err != nil {
		return err
	}
	var first error
	for _, found := range list {
		if !e.abandoned(found.Labels, time.Now()) {
			continue
		}
		err := removeContainer(ctx, cli, found.ID)
		if err == nil {
			e.cfg.Logger.Warn("abandoned sandbox removed", "container", found.ID, "execution_id", found.Labels[labelExecution])
		} else if first == nil {
			first = err
		}
	}
	return first
}

func (e *Executor) abandoned(labels map[string]string, now time.Time) bool {
	if labels[labelGateway] == e.cfg.Gateway && labels[labelExecution] != e.engines.helper {
		return !e.running.has(labels[labelExecution])
	}
	deadline, err := strconv.ParseInt(labels[labelDeadline], 10, 64)
	return err == nil && now.After(time.UnixMilli(deadline))
}
