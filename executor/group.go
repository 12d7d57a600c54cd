package executor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hostGroups is where Linux shows control groups (cgroups(7)).
const hostGroups = "/sys/fs/cgroup"

// spent is what a container has used so far.
type spent struct {
	cpu  time.Duration
	peak int64 // bytes of memory
}

// readGroup reads what a container has used from its control group under root,
// at once and exactly. It reports false where that cannot be seen from here: the
// engine is on another host, or has its groups elsewhere. A container's id is in
// the path, and unique, so what is found is the container's.
func readGroup(root, parent, id string) (spent, bool) {
	for _, folder := range groupsOf(parent, id) {
		if usage, ok := readNumber(filepath.Join(root, "cpuacct", folder, "cpuacct.usage")); ok { // nanoseconds
			peak, _ := readNumber(filepath.Join(root, "memory", folder, "memory.max_usage_in_bytes"))
			return spent{time.Duration(usage), peak}, true
		}
		if stat, err := os.ReadFile(filepath.Join(root, folder, "cpu.stat")); err == nil {
			peak, ok := readNumber(filepath.Join(root, folder, "memory.peak"))
			if !ok { // before Linux 5.19; what is used now is the least it was
				peak, _ = readNumber(filepath.Join(root, folder, "memory.current"))
			}
			return spent{time.Duration(usageUS(string(stat))) * time.Microsecond, peak}, true
		}
	}
	return spent{}, false
}

// groupsOf are the places, below the root, where a container's control group may
// be: by the cgroupfs driver and by systemd's, whose slices nest by their names
// (systemd.slice(5)).
func groupsOf(parent, id string) []string {
	switch {
	case parent == "":
		return []string{"docker/" + id, "system.slice/docker-" + id + ".scope"}
	case strings.HasSuffix(parent, ".slice"):
		outer, _, _ := strings.Cut(parent, "-")
		return []string{outer + ".slice/" + parent + "/docker-" + id + ".scope"}
	}
	return []string{strings.TrimPrefix(parent, "/") + "/" + id}
}

// usageUS is the processor time in a cpu.stat, in microseconds.
func usageUS(stat string) int64 {
	for line := range strings.Lines(stat) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}

// readNumber reads a file that holds one.
func readNumber(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
