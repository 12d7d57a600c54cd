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
func readGroup(root, id string) (spent, bool) {
	for _, folder := range []string{"docker/" + id, "system.slice/docker-" + id + ".scope"} {
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
