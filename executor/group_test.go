package executor

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ProcessorOf is what a container's processes have used of the processor, by its
// control group; false where there is none any more.
func ProcessorOf(id string) (time.Duration, bool) {
	now, ok := readGroup(hostGroups, "", id)
	return now.cpu, ok
}

func TestReadGroup(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  spent
		found bool
	}{
		"version 1": {map[string]string{
			"cpuacct/docker/abc/cpuacct.usage": "1500000\n", "memory/docker/abc/memory.max_usage_in_bytes": "4096\n",
		}, spent{1500 * time.Microsecond, 4096}, true},
		"version 2": {map[string]string{
			"docker/abc/cpu.stat": "usage_usec 1500\nuser_usec 1\n", "docker/abc/memory.peak": "4096\n", "docker/abc/memory.current": "1\n",
		}, spent{1500 * time.Microsecond, 4096}, true},
		"version 2 by systemd, without a peak": {map[string]string{
			"system.slice/docker-abc.scope/cpu.stat": "usage_usec 1500\n", "system.slice/docker-abc.scope/memory.current": "4096\n",
		}, spent{1500 * time.Microsecond, 4096}, true},
		"another container's": {map[string]string{"docker/abcd/cpu.stat": "usage_usec 1500\n"}, spent{}, false},
		"nothing":             {nil, spent{}, false},
		"no number":           {map[string]string{"cpuacct/docker/abc/cpuacct.usage": "much\n"}, spent{}, false},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, found := readGroup(root, "", "abc"); got != c.want || found != c.found {
			t.Errorf("%s: %+v, %t", name, got, found)
		}
	}
}

func TestGroupsOfAReservedTenant(t *testing.T) {
	for driver, want := range map[string]string{
		"cgroupfs": "execgate/2c26b46b68ff/abc",
		"systemd":  "execgate.slice/execgate-2c26b46b68ff.slice/docker-abc.scope",
	} {
		if got := groupsOf(cgroupParent(driver, "foo"), "abc"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", driver, got, want)
		}
	}
	if parent := cgroupParent("none", "foo"); parent != "" {
		t.Errorf("without a driver: %q", parent)
	}
}
