//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes the files of a control group as the kernel shows them.
func tree(t *testing.T, files map[string]string) cgroup {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cgroupAt(root)
}

var (
	v1Files = map[string]string{
		"memory/memory.limit_in_bytes": "134217728\n", "memory/memory.memsw.limit_in_bytes": "134217728\n",
		"memory/memory.usage_in_bytes": "5242880\n", "memory/memory.max_usage_in_bytes": "7340032\n", "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n", "cpu/cpu.shares": "256\n",
		"cpuacct/cpuacct.usage": "31000999\n",
		"pids/pids.max":         "74\n", "pids/pids.current": "13\n", "pids/pids.peak": "19\n", "pids/pids.events": "max 3\n",
	}
	v2Files = map[string]string{
		"cgroup.controllers": "cpu memory pids\n",
		"memory.max":         "134217728\n", "memory.swap.max": "0\n", "memory.current": "5242880\n", "memory.peak": "7340032\n",
		"memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n",
		"cpu.max":       "25000 100000\n", "cpu.weight": "10\n", "cpu.stat": "usage_usec 31000\nuser_usec 1\nsystem_usec 1\n",
		"pids.max": "74\n", "pids.current": "13\n", "pids.peak": "19\n", "pids.events": "max 3\n",
	}
)

func TestCgroup(t *testing.T) {
	limits := map[string]string{
		"memory_bytes": "134217728", "swap_bytes": "134217728", "cpu_quota_us": "25000", "cpu_period_us": "100000", "pids": "74",
	}
	for name, files := range map[string]map[string]string{"v1": v1Files, "v2": v2Files} {
		c := tree(t, files)
		if c.v2 != (name == "v2") {
			t.Fatalf("%s: v2 is %t", name, c.v2)
		}
		got := c.limits()
		delete(got, "cpu_shares")
		if diff := cmp.Diff(limits, got); diff != "" {
			t.Errorf("%s: limits (-want +got):\n%s", name, diff)
		}
		want := counters{cpuUS: 31000, memory: 5 << 20, peak: 7340032, oomKills: 2, pidsRefused: 3}
		if got := c.counters(); got != want {
			t.Errorf("%s: counters %+v, want %+v", name, got, want)
		}
		current, ok1 := c.pidsCurrent()
		peak, ok2 := c.pidsPeak()
		if current != 13 || peak != 19 || !ok1 || !ok2 {
			t.Errorf("%s: %d and %d processes", name, current, peak)
		}
	}
}

// What is not limited, and what cannot be read, is never taken for a limit.
func TestCgroupWithoutLimits(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  map[string]string
	}{
		"v2 without limits": {map[string]string{"cgroup.controllers": "", "memory.max": "max\n", "memory.swap.max": "max\n", "cpu.max": "max 100000\n", "pids.max": "max\n"},
			map[string]string{"memory_bytes": "max", "swap_bytes": "max", "cpu_quota_us": "max", "cpu_period_us": "100000", "pids": "max"}},
		"v2 with swap": {map[string]string{"cgroup.controllers": "", "memory.max": "100\n", "memory.swap.max": "50\n"},
			map[string]string{"memory_bytes": "100", "swap_bytes": "150"}},
		"v2 where swap is not accounted": {map[string]string{"cgroup.controllers": "", "memory.max": "100\n"},
			map[string]string{"memory_bytes": "100"}},
		"v2 with nothing":  {map[string]string{"cgroup.controllers": ""}, map[string]string{}},
		"v1 without memsw": {map[string]string{"memory/memory.limit_in_bytes": "100\n"}, map[string]string{"memory_bytes": "100"}},
		"nothing":          {nil, map[string]string{}},
		"v2 with no number in it": {map[string]string{"cgroup.controllers": "", "cpu.max": "25000\n", "memory.events": "oom_kill\noom_kill x\n", "pids.events": "max\n"},
			map[string]string{}},
	} {
		g := tree(t, c.files)
		if diff := cmp.Diff(c.want, g.limits()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := g.counters(); got != (counters{}) {
			t.Errorf("%s: counters %+v", name, got)
		}
	}
}
