package executor

import (
	"fmt"
	"path"
	"strings"

	"github.com/execgate/execgate/executor/wire"
)

// maskedPaths are hidden. They are the engine's own list (runtime-spec's
// default set) and /dev/mqueue, which would be one more place to write to.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/dev/mqueue",
}

// readonlyPaths cannot be written even by a process that would have the right.
var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// maxVolumes bounds the VOLUMEs of an image; each costs a mount.
const maxVolumes = 32

// volumeMasks covers each VOLUME of an image with an empty mount that cannot be
// written. Without it the engine makes a volume on the host's disk that no limit
// bounds and that outlives the container.
func volumeMasks(volumes []string) (map[string]string, error) {
	if len(volumes) > maxVolumes {
		return nil, fmt.Errorf("the image declares %d volumes, at most %d", len(volumes), maxVolumes)
	}
	masks := map[string]string{}
	for _, v := range volumes {
		clean := path.Clean(v)
		if !path.IsAbs(clean) || clean == "/" || strings.ContainsAny(clean, ",:") || underAny(clean, "/proc", "/sys", "/dev", wire.AgentFolder) {
			return nil, fmt.Errorf("the image declares a volume at %q, which cannot be masked: build it without that VOLUME", v)
		}
		masks[clean] = "ro,nosuid,nodev,noexec,size=4096,nr_inodes=1,mode=0555"
	}
	return masks, nil
}

func underAny(p string, folders ...string) bool {
	for _, folder := range folders {
		if p == folder || strings.HasPrefix(p, folder+"/") {
			return true
		}
	}
	return false
}
