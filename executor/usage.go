package executor

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/execgate/execgate/executor/wire"
)

// measureTimeout bounds the wait for the engine's count of what a sandbox has
// used. No kill waits for it, and no result that has its figures already.
const measureTimeout = 200 * time.Millisecond

// maxStats bounds what is read of the engine's answer, in bytes.
const maxStats = 1 << 20

// measure finds out what a sandbox has used before it is killed, since its agent
// may not live to tell: from its control group where the gateway is on the
// engine's host, and else from the engine, which takes up to a second for it
// (Docker 20.10 waits for its collector's tick) and forgets with the kill.
func (c *conversation) measure() {
	if c.measured != nil {
		return
	}
	c.measured = make(chan struct{})
	if now, ok := readGroup(hostGroups, c.sb.spec.Parent, c.sb.id); ok {
		c.engineCPU, c.enginePeak = now.cpu-c.before.cpu, now.peak
		close(c.measured)
		return
	}
	c.e.later(func(ctx context.Context) {
		defer close(c.measured)
		ctx, cancel := context.WithTimeout(ctx, measureTimeout)
		defer cancel()
		answer, err := c.sb.cli.ContainerStatsOneShot(ctx, c.sb.id)
		if err != nil {
			return
		}
		defer answer.Body.Close()
		var stats container.StatsResponse
		if err := json.NewDecoder(io.LimitReader(answer.Body, maxStats)).Decode(&stats); err != nil {
			return
		}
		// Version 2 of cgroups has no peak here; what is used now is the least it was.
		c.engineCPU = time.Duration(stats.CPUStats.CPUUsage.TotalUsage) - c.before.cpu
		c.enginePeak = int64(max(stats.MemoryStats.MaxUsage, stats.MemoryStats.Usage))
	})
}

// used is what the program used: by the agent's word, and by the engine's where
// there is none. The agent's is not believed past what can be.
func (c *conversation) used() (wall, cpu time.Duration, peak int64) {
	if !c.ending.began.IsZero() {
		wall = time.Since(c.ending.began)
	}
	if x := c.ending.exited; x != nil {
		return min(time.Duration(x.WallUS)*time.Microsecond, time.Since(c.began)), time.Duration(x.CPUUS) * time.Microsecond, x.PeakMemory
	}
	if c.measured != nil {
		select {
		case <-c.measured:
			return wall, c.engineCPU, c.enginePeak
		default:
		}
	}
	return wall, 0, 0
}

// The largest values that an agent can mean.
const (
	maxExitCode = 255
	maxSignal   = 64
)

// plausible reports whether an agent can have meant what it said.
func plausible(x wire.Exited) bool {
	const most = int64(1) << 50 // far past any duration in microseconds, or size
	for _, n := range []int64{x.WallUS, x.CPUUS, x.PeakMemory, x.OOMKills, x.Processes} {
		if n < 0 || n > most {
			return false
		}
	}
	return x.ExitCode >= 0 && x.ExitCode <= maxExitCode && x.Signal >= 0 && x.Signal <= maxSignal
}
