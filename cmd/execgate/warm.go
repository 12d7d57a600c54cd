package main

import (
	"slices"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// What is kept parked: the language most programs are written in, on the
// runtime the shipped policy grants.
const (
	warmImage    = "python"
	warmLanguage = "python"
	warmRuntime  = "runc"
)

// warmPreload are the modules that take longest to import.
var warmPreload = []string{"pandas", "matplotlib.pyplot"}

// warmLimits are the shipped policy's defaults for the tenant default: what a
// parked sandbox is most likely to be wanted with. Another policy costs nothing
// but the first starts, after which the executor builds what that one grants.
var warmLimits = execution.Limits{
	TimeoutMS: 30_000, MemoryMiB: 256, CPUMillis: 500, CPUShares: 256,
	PIDs: 50, NoFile: 256, TmpMiB: 16, WorkspaceMiB: 32, ShmMiB: 8,
	OutputKiB: 1024, ResultKiB: 256, FilesMiB: 8, FilesCount: 64,
}

// warm says which sandboxes to keep parked. A list of images that has no python
// has nothing to park.
func (c ExecutorConfig) warm(list []executor.Image) []executor.Warm {
	if !slices.ContainsFunc(list, func(i executor.Image) bool { return i.Name == warmImage && len(i.Languages[warmLanguage].Command) > 0 }) {
		return nil
	}
	return c.shelves()
}

// shelves are the sandboxes to keep parked where there is a python.
func (c ExecutorConfig) shelves() []executor.Warm {
	shelf := executor.Warm{Image: warmImage, Language: warmLanguage, Runtime: warmRuntime, Limits: warmLimits}
	var warm []executor.Warm
	if c.WarmTarget > 0 {
		shelf.Min, shelf.Target, shelf.Max = min(c.WarmMin, c.WarmTarget), c.WarmTarget, c.WarmMax
		warm = append(warm, shelf)
	}
	if c.WarmPreloadTarget > 0 {
		shelf.Preload = warmPreload
		shelf.Min, shelf.Target, shelf.Max = min(c.WarmMin, c.WarmPreloadTarget), c.WarmPreloadTarget, c.WarmPreloadTarget+1
		warm = append(warm, shelf)
	}
	return warm
}

// mostParked is how many sandboxes may be parked at once.
func (c Config) mostParked() int {
	return executor.MostParked(c.Executor.shelves(), c.Requests.Reserved)
}

// cold is c without parked sandboxes.
func (c ExecutorConfig) cold() ExecutorConfig {
	c.WarmTarget, c.WarmPreloadTarget = 0, 0
	return c
}
