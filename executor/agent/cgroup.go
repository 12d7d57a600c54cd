//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroup reads the sandbox's own control group, which a private cgroup
// namespace shows at the root: version 1 with a folder per controller
// (Documentation/admin-guide/cgroup-v1) or version 2 in one
// (Documentation/admin-guide/cgroup-v2.rst).
type cgroup struct {
	root string
	v2   bool
}

var cgroupNow = cgroupAt("/sys/fs/cgroup")

func cgroupAt(root string) cgroup {
	return cgroup{root: root, v2: exists(filepath.Join(root, "cgroup.controllers"))}
}

// limits returns the limits in force under the neutral names of wire.Report.
func (c cgroup) limits() map[string]string {
	limits := map[string]string{}
	put := func(name, value string) {
		if value != "" {
			limits[name] = value
		}
	}
	put("pids", c.read("pids", "pids.max"))
	if !c.v2 {
		put("memory_bytes", c.read("memory", "memory.limit_in_bytes"))
		put("swap_bytes", c.read("memory", "memory.memsw.limit_in_bytes"))
		put("cpu_quota_us", c.read("cpu", "cpu.cfs_quota_us"))
		put("cpu_period_us", c.read("cpu", "cpu.cfs_period_us"))
		put("cpu_shares", c.read("cpu", "cpu.shares"))
		return limits
	}
	put("memory_bytes", c.read("", "memory.max"))
	put("swap_bytes", sum(c.read("", "memory.max"), c.read("", "memory.swap.max")))
	if quota, period, ok := strings.Cut(c.read("", "cpu.max"), " "); ok {
		put("cpu_quota_us", quota)
		put("cpu_period_us", period)
	}
	// cpu.weight is a conversion of shares whose formula differs between
	// runtimes, so version 2 has no cpu_shares here.
	return limits
}

// sum adds two limits; anything that is not a number is "max".
func sum(a, b string) string {
	x, errX := strconv.ParseInt(a, 10, 64)
	y, errY := strconv.ParseInt(b, 10, 64)
	if a == "" || b == "" {
		return ""
	}
	if errX != nil || errY != nil {
		return "max"
	}
	return strconv.FormatInt(x+y, 10)
}

// counters are what the sandbox has used since it is up.
type counters struct {
	cpuUS        int64
	memory, peak int64 // bytes
	oomKills     int64
	pidsRefused  int64
}

func (c cgroup) counters() counters {
	now := counters{cpuUS: c.cpuUS(), memory: c.memory(), pidsRefused: c.field("pids", "pids.events", "max")}
	if c.v2 {
		now.peak, now.oomKills = c.number("", "memory.peak"), c.field("", "memory.events", "oom_kill")
	} else {
		now.peak, now.oomKills = c.number("memory", "memory.max_usage_in_bytes"), c.field("memory", "memory.oom_control", "oom_kill")
	}
	return now
}

// memory is what is in use, in bytes.
func (c cgroup) memory() int64 {
	if c.v2 {
		return c.number("", "memory.current")
	}
	return c.number("memory", "memory.usage_in_bytes")
}

// cpuUS is the processor time that was used so far, in microseconds.
func (c cgroup) cpuUS() int64 {
	if c.v2 {
		return c.field("", "cpu.stat", "usage_usec")
	}
	return c.number("cpuacct", "cpuacct.usage") / 1000
}

func (c cgroup) pidsCurrent() (int64, bool) { return c.try("pids", "pids.current") }
func (c cgroup) pidsPeak() (int64, bool)    { return c.try("pids", "pids.peak") }

// read returns the trimmed content of a file, and "" where there is none.
func (c cgroup) read(controller, file string) string {
	if c.v2 {
		controller = ""
	}
	content, err := readFile(filepath.Join(c.root, controller, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

func (c cgroup) try(controller, file string) (int64, bool) {
	n, err := strconv.ParseInt(c.read(controller, file), 10, 64)
	return n, err == nil
}

func (c cgroup) number(controller, file string) int64 {
	n, _ := c.try(controller, file)
	return n
}

// field returns one value of a file of "name value" lines, and 0 where it is
// not there.
func (c cgroup) field(controller, file, name string) int64 {
	for line := range strings.Lines(c.read(controller, file)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
