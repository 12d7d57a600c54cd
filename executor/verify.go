package executor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// control is one expectation about a running sandbox.
type control struct {
	name string // as policy may list it in optional_controls
	want string
	got  string
}

// verify compares what the engine and the agent report with what was granted.
// A control that is not in force refuses the run, unless policy calls it
// optional.
func verify(s spec, c container.InspectResponse, hello wire.Hello) error {
	if hello.Version != wire.Version {
		return fmt.Errorf("the agent speaks protocol %d, not %d: build execgate and execgate-agent together", hello.Version, wire.Version)
	}
	return compare(s, append(engineControls(s, c), insideControls(s, hello.Report)...))
}

// compare refuses the first control that is not in force.
func compare(s spec, controls []control) error {
	for _, control := range controls {
		if control.got != control.want && !slices.Contains(s.Grant.OptionalControls, control.name) {
			return &execution.Error{
				Kind: execution.KindUnavailable, Code: "control_not_enforced", RetryAfter: retryAfter,
				Detail: fmt.Sprintf("This host does not enforce the control %q that the grant needs, so nothing was run. Have the host fixed, or the control listed in the policy's optional_controls.", control.name),
				Err:    fmt.Errorf("control %s: want %q, got %q", control.name, control.want, control.got),
			}
		}
	}
	return nil
}

// engineControls compares what the engine says it made.
func engineControls(s spec, c container.InspectResponse) []control {
	built, err := s.build()
	if err != nil || c.ContainerJSONBase == nil || c.HostConfig == nil || c.Config == nil {
		return []control{{"inspect", "complete", "incomplete"}}
	}
	want, got := built.Host, c.HostConfig
	check := func(name string, want, got any) control { return control{name, fmt.Sprint(want), fmt.Sprint(got)} }
	var volumes []string
	for _, m := range c.Mounts {
		if m.Type != mount.TypeTmpfs {
			volumes = append(volumes, fmt.Sprintf("%s %s rw=%t", m.Name, m.Destination, m.RW))
		}
	}
	health := []string(nil)
	if c.Config.Healthcheck != nil {
		health = c.Config.Healthcheck.Test
	}
	return []control{
		check("image", s.Image.ID, c.Image),
		check("user", built.Config.User, c.Config.User),
		check("entrypoint", append(slices.Clone([]string(built.Config.Entrypoint)), built.Config.Cmd...), append(slices.Clone([]string(c.Config.Entrypoint)), c.Config.Cmd...)),
		check("healthcheck", []string{"NONE"}, health),
		check("network", want.NetworkMode, got.NetworkMode),
		check("privileged", false, got.Privileged),
		check("read_only", true, got.ReadonlyRootfs),
		check("capabilities", want.CapDrop, got.CapDrop),
		check("capabilities", sorted(want.CapAdd), withoutPrefix(got.CapAdd)),
		check("security_options", sorted(want.SecurityOpt), sorted(got.SecurityOpt)),
		check("ipc", want.IpcMode, got.IpcMode),
		check("pid_namespace", want.PidMode, got.PidMode),
		check("cgroup_namespace", want.CgroupnsMode, got.CgroupnsMode),
		check("runtime", want.Runtime, got.Runtime),
		check("tmpfs", want.Tmpfs, got.Tmpfs),
		check("volumes", []string{fmt.Sprintf("%s %s rw=false", s.Engine.AgentVolume, wire.AgentFolder)}, volumes),
		check("binds", 0, len(got.Binds)+len(got.VolumesFrom)+len(got.Devices)+len(got.DeviceRequests)),
		check("masked_paths", sorted(want.MaskedPaths), sorted(got.MaskedPaths)),
		check("readonly_paths", sorted(want.ReadonlyPaths), sorted(got.ReadonlyPaths)),
		check("memory", want.Memory, got.Memory),
		check("swap", want.MemorySwap, got.MemorySwap),
		check("cpu", fmt.Sprint(want.CPUQuota, want.CPUPeriod), fmt.Sprint(got.CPUQuota, got.CPUPeriod)),
		check("cpu_shares", want.CPUShares, got.CPUShares),
		check("cgroup_parent", want.CgroupParent, got.CgroupParent),
		check("pids", number(want.PidsLimit), number(got.PidsLimit)),
		check("oom_score", want.OomScoreAdj, got.OomScoreAdj),
		check("log", want.LogConfig.Type, got.LogConfig.Type),
	}
}

// withoutPrefix lists capabilities as they are asked for: newer engines give them
// back with the kernel's prefix.
func withoutPrefix(names []string) []string {
	var list []string
	for _, name := range names {
		list = append(list, strings.TrimPrefix(name, "CAP_"))
	}
	return sorted(list)
}

// Sets of capabilities as /proc shows them.
const (
	none         = "0000000000000000"
	reusableMask = "00000000000001e0" // reusableCapabilities
)

// gvisor is the engine's name of gVisor. Any other name is held to what runc
// shows, which is the strictest.
const gvisor = "runsc"

// insideControls is the table of expectations of a runtime: what the agent sees
// from inside.
func insideControls(s spec, r wire.Report) []control {
	if s.Grant.Runtime == gvisor {
		return gvisorControls(s, r)
	}
	return runcControls(s, r)
}

// runcControls are what a sandbox on the host's own kernel shows.
func runcControls(s spec, r wire.Report) []control {
	l := s.Grant.Limits
	return append(everyControl(s, r),
		control{"seccomp", "2", r.Status["Seccomp"]}, // SECCOMP_MODE_FILTER
		control{"swap", fmt.Sprint(l.MemoryMiB << 20), r.Cgroup["swap_bytes"]},
		control{"pids", fmt.Sprint(hostPIDs(s.Grant)), r.Cgroup["pids"]},
		control{"writable_mounts", wantedMounts(l, true), writableMounts(r, true)},
	)
}

// gvisorControls are what gVisor's kernel shows. It has no swap of its own, no
// count of the host's tasks, no inodes and no nodev of a tmpfs, where nothing
// is a device; the engine's filter is around it, not in it. Those are compared
// through inspect.
func gvisorControls(s spec, r wire.Report) []control {
	return append(everyControl(s, r),
		control{"runtime", "gVisor", kernelOf(r)},
		control{"writable_mounts", wantedMounts(s.Grant.Limits, false), writableMounts(r, false)},
	)
}

// kernelOf tells gVisor by the agent's volume: only its kernel reaches files of
// the host over a descriptor that it was given.
func kernelOf(r wire.Report) string {
	for _, m := range r.Mounts {
		if m.Path == wire.AgentFolder && m.Type == "9p" && slices.Contains(strings.Split(m.Options, ","), "trans=fd") {
			return "gVisor"
		}
	}
	return "another"
}

// everyControl is what every runtime shows.
func everyControl(s spec, r wire.Report) []control {
	l := s.Grant.Limits
	id, held := strconv.Itoa(s.UID), none
	if s.Profile == reusable {
		id, held = "0", reusableMask
	}
	ids := strings.Join([]string{id, id, id, id}, "\t")
	return []control{
		{"user", ids, r.Status["Uid"]},
		{"user", ids, r.Status["Gid"]},
		{"groups", id, cmp.Or(r.Status["Groups"], id)}, // some runtimes leave the list empty
		{"capabilities", none, r.Status["CapInh"]},
		{"capabilities", held, r.Status["CapPrm"]},
		{"capabilities", held, r.Status["CapEff"]},
		{"capabilities", held, r.Status["CapBnd"]},
		{"capabilities", none, r.Status["CapAmb"]},
		{"no_new_privileges", "1", r.Status["NoNewPrivs"]},
		{"network", "lo", strings.Join(r.Interfaces, ",")},
		{"memory", fmt.Sprint(l.MemoryMiB << 20), r.Cgroup["memory_bytes"]},
		{"cpu", fmt.Sprint(l.CPUMillis * cpuPeriodUS / 1000), r.Cgroup["cpu_quota_us"]},
		{"cpu", fmt.Sprint(cpuPeriodUS), r.Cgroup["cpu_period_us"]},
		{"nofile", fmt.Sprint(l.NoFile), rlimit(r, "nofile")},
		{"core", "0", rlimit(r, "core")},
		{"fsize", fmt.Sprint(fileSize(l)), rlimit(r, "fsize")},
	}
}

// wantedMounts lists every mount that the program can write to, with its bounds;
// whole says whether a runtime shows all of them.
func wantedMounts(l execution.Limits, whole bool) string {
	var list []string
	for path, mib := range map[string]int64{"/tmp": l.TmpMiB, "/dev/shm": l.ShmMiB, wire.Workspace: l.WorkspaceMiB} {
		m := wire.Mount{Path: path, Bytes: uint64(mib) << 20, Inodes: uint64(inodes(mib)), Options: "nosuid,nodev"}
		list = append(list, describeMount(m, whole))
	}
	return strings.Join(sorted(list), "; ")
}

// writableMounts lists those that the agent found. A path that was mounted over
// stands more than once, and what is true of it now is true of each.
func writableMounts(r wire.Report, whole bool) string {
	var list []string
	for _, m := range r.Mounts {
		if m.Writable {
			list = append(list, describeMount(m, whole))
		}
	}
	return strings.Join(sorted(list), "; ")
}

func describeMount(m wire.Mount, whole bool) string {
	options := strings.Split(m.Options, ",")
	text := fmt.Sprintf("%s %d bytes nosuid=%t", m.Path, m.Bytes, slices.Contains(options, "nosuid"))
	if whole {
		text += fmt.Sprintf(" nodev=%t %d inodes", slices.Contains(options, "nodev"), m.Inodes)
	}
	return text
}

// rlimit is a limit that the agent found; one that it could not read is no number.
func rlimit(r wire.Report, name string) string {
	value, ok := r.Rlimits[name]
	if !ok {
		return "unknown"
	}
	return strconv.FormatUint(value, 10)
}

func number(n *int64) string {
	if n == nil {
		return "none"
	}
	return strconv.FormatInt(*n, 10)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
