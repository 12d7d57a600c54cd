package executor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// park makes a sandbox whose driver waits for a job.
func (e *Executor) park(ctx context.Context, tenant string, w Warm, image imageState) (*sandbox, error) {
	if !e.underWay.begin() {
		return nil, context.Canceled
	}
	defer e.underWay.end()
	engine, err := e.engines.get(ctx)
	if err != nil {
		return nil, err
	}
	sb, err := e.open(ctx, engine, spec{
		Gateway: e.cfg.Gateway, Execution: execution.NewID("parked_", time.Now()), Deadline: time.Now().Add(parkedDeadline),
		Grant:   execution.Grant{Image: image.digest, Runtime: w.Runtime, Limits: w.Limits},
		Profile: sealed, Parent: e.parentOf(engine, tenant), Image: image.facts, Engine: engine.facts,
	})
	if err != nil {
		return nil, err
	}
	if e.cfg.Egress != nil { // whatever will be granted
		err = e.certify(sb)
	}
	if err == nil {
		err = e.parkDriver(ctx, sb, parkable{image.Languages[w.Language], w.Preload})
	}
	if err != nil {
		e.discard(sb)
		return nil, err
	}
	return sb, nil
}

// parkable is a driver that can wait for its job, and what it imports ahead of it.
type parkable struct {
	Language
	preload []string
}

// parkDriver starts a driver in a sandbox and waits until it is ready for a job.
func (e *Executor) parkDriver(ctx context.Context, sb *sandbox, driver parkable) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StartTimeout)
	defer cancel()
	process := wire.Process{
		Argv: slices.Concat(driver.Command, driver.preload), Env: environment(sb.startVariables(driver.Language)), PIDs: sb.spec.Grant.Limits.PIDs,
		Stays: sb.stays, Fork: sb.forks,
	}
	if err := sb.park(ctx, process); err != nil {
		return unavailable(fmt.Errorf("park a driver (the agent said %q): %w", sb.words, err))
	}
	return nil
}

func (sb *sandbox) park(ctx context.Context, process wire.Process) error {
	stop := context.AfterFunc(ctx, func() { sb.session.Close() })
	defer stop()
	if sb.streams == nil {
		if err := sb.openStreams(); err != nil {
			return err
		}
	}
	if err := sb.tellAuthority(); err != nil {
		return err
	}
	if err := wire.WriteJSON(sb.control, wire.FramePark, process); err != nil {
		return err
	}
	if _, err := sb.next(ctx, map[wire.FrameType]int{wire.FrameParked: 0}); err != nil {
		return err
	}
	sb.parked = true
	return nil
}

// adjust gives a parked sandbox the memory and CPU of a grant, where they
// differ from what it was built with, and compares what the engine then says.
func (e *Executor) adjust(ctx context.Context, sb *sandbox, l execution.Limits) error {
	had := sb.spec.Grant.Limits
	if l.MemoryMiB == had.MemoryMiB && l.CPUMillis == had.CPUMillis && l.CPUShares == had.CPUShares {
		return nil
	}
	s := sb.spec
	s.Grant.Limits.MemoryMiB, s.Grant.Limits.CPUMillis, s.Grant.Limits.CPUShares = l.MemoryMiB, l.CPUMillis, l.CPUShares
	built, err := s.build()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	want := built.Host.Resources
	// Memory below what is used fails, and another sandbox or a cold start serves.
	updated, err := sb.cli.ContainerUpdate(ctx, sb.id, container.UpdateConfig{Resources: container.Resources{
		Memory: want.Memory, MemorySwap: want.MemorySwap,
		CPUPeriod: want.CPUPeriod, CPUQuota: want.CPUQuota, CPUShares: want.CPUShares,
	}})
	if err != nil {
		return fmt.Errorf("adjust limits: %w", err)
	}
	if len(updated.Warnings) > 0 {
		return fmt.Errorf("adjust limits: %s", strings.Join(updated.Warnings, "; "))
	}
	found, err := sb.cli.ContainerInspect(ctx, sb.id)
	if err != nil {
		return fmt.Errorf("adjust limits: %w", err)
	}
	sb.spec = s
	return compare(s, engineControls(s, found))
}
