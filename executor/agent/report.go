//go:build linux

package agent

import (
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// statusFields are the lines of /proc/self/status that the gateway compares.
var statusFields = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}

// report says what this process sees around itself.
func report(users users) (r wire.Report, err error) {
	r = wire.Report{
		Status:     ownStatus(),
		Interfaces: interfaces(),
		Cgroup:     cgroupNow.limits(),
		Rlimits:    rlimits(),
	}
	// What a program may write to is what counts.
	err = as(users.of(0), func() error {
		r.Mounts = mounts()
		return nil
	})
	return r, err
}

func ownStatus() map[string]string {
	fields := map[string]string{}
	content, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fields
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		for _, wanted := range statusFields {
			if name == wanted {
				fields[name] = strings.TrimSpace(value)
			}
		}
	}
	return fields
}

func interfaces() []string {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	names := make([]string, len(list))
	for i, iface := range list {
		names[i] = iface.Name
	}
	return names
}

// mounts reads /proc/self/mountinfo (proc(5)). Escaped characters are left as
// they are: no path that the gateway expects has one.
func mounts() []wire.Mount {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var list []wire.Mount
	for line := range strings.Lines(string(content)) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		m := wire.Mount{Path: left[4], Type: right[0], Options: left[5] + "," + right[2]}
		m.Writable = canKeep(m.Path)
		var fs unix.Statfs_t
		if m.Type == "tmpfs" && unix.Statfs(m.Path, &fs) == nil {
			m.Bytes, m.Inodes = fs.Blocks*uint64(fs.Bsize), fs.Files
		}
		list = append(list, m)
	}
	return list
}

// canKeep reports whether something could be written at path and stay there. A
// masked file of /proc has /dev/null mounted over it, which keeps nothing.
func canKeep(path string) bool {
	var stat unix.Stat_t
	if unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) != nil || unix.Stat(path, &stat) != nil {
		return false
	}
	return stat.Mode&unix.S_IFMT != unix.S_IFCHR
}

func rlimits() map[string]uint64 {
	limits := map[string]uint64{}
	for name, which := range map[string]int{"nofile": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE, "fsize": unix.RLIMIT_FSIZE} {
		var limit syscall.Rlimit
		if syscall.Getrlimit(which, &limit) == nil {
			limits[name] = limit.Max
		}
	}
	return limits
}
