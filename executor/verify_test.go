package executor

import (
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// obeyed is what the engine and the agent report of a sandbox as it should be.
func obeyed(t testing.TB, s spec) (container.InspectResponse, wire.Hello) {
	t.Helper()
	built, err := s.build()
	if err != nil {
		t.Fatal(err)
	}
	inspected := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{Image: s.Image.ID, HostConfig: built.Host},
		Config:            built.Config,
		Mounts:            []container.MountPoint{{Type: mount.TypeVolume, Name: s.Engine.AgentVolume, Destination: wire.AgentFolder}},
	}
	l := s.Grant.Limits
	id, held := strconv.Itoa(s.UID), none
	if s.Profile == reusable {
		id, held = "0", "00000000000001e0"
	}
	hello := wire.Hello{Version: wire.Version, Report: wire.Report{
		Status: map[string]string{
			"Uid": strings.Join([]string{id, id, id, id}, "\t"), "Gid": strings.Join([]string{id, id, id, id}, "\t"), "Groups": id,
			"CapInh": none, "CapPrm": held, "CapEff": held, "CapBnd": held, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
		},
		Interfaces: []string{"lo"},
		Cgroup: map[string]string{
			"memory_bytes": "134217728", "swap_bytes": "134217728", "cpu_quota_us": "25000", "cpu_period_us": "100000", "pids": strconv.FormatInt(l.PIDs+agentPIDs, 10),
		},
		Rlimits: map[string]uint64{"nofile": uint64(l.NoFile), "core": 0, "fsize": uint64(fileSize(l))},
	}}
	if s.Grant.Runtime == gvisor {
		hello.Report.Status["Seccomp"] = "0"
		hello.Report.Cgroup["pids"], hello.Report.Cgroup["cpu_shares"] = "max", "1024"
		delete(hello.Report.Cgroup, "swap_bytes")
	}
	for path, mib := range map[string]int64{"/tmp": l.TmpMiB, "/dev/shm": l.ShmMiB, wire.Workspace: l.WorkspaceMiB} {
		hello.Report.Mounts = append(hello.Report.Mounts, wire.Mount{
			Path: path, Type: "tmpfs", Options: "rw,nosuid,nodev", Writable: true, Bytes: uint64(mib) << 20, Inodes: uint64(inodes(mib)),
		})
	}
	volume := wire.Mount{Path: wire.AgentFolder, Type: "ext4", Options: "ro,relatime"}
	if s.Grant.Runtime == gvisor {
		for i := range hello.Report.Mounts {
			hello.Report.Mounts[i].Options, hello.Report.Mounts[i].Inodes = "rw,nosuid,noexec", 3085511
		}
		volume.Type, volume.Options = "9p", "ro,trans=fd,rfdno=5,wfdno=5,aname=/,directfs"
	}
	hello.Report.Mounts = append(hello.Report.Mounts, volume)
	return inspected, hello
}

// Invariant 3, in part: a control that is not in force refuses the run and is
// named, unless policy calls it optional.
func TestVerifyRefusesEachDifference(t *testing.T) {
	for _, runtime := range []string{"runc", gvisor} {
		for _, profile := range []profile{sealed, reusable} {
			t.Run(runtime+" "+string(profile), func(t *testing.T) {
				s := sample()
				s.Grant.Runtime, s.Profile = runtime, profile
				verifyRefusesEachDifference(t, s)
			})
		}
	}
}

// What gVisor does not show is no difference there, and is one anywhere else.
func TestVerifyKnowsRuntimesByName(t *testing.T) {
	for runtime, fits := range map[string]string{"runc": "runc", gvisor: gvisor, "crun": "runc", "runsc-kvm": "runc", "kata": "runc"} {
		for _, shown := range []string{"runc", gvisor} {
			s := sample()
			s.Grant.Runtime = shown
			_, hello := obeyed(t, s)
			s.Grant.Runtime = runtime
			c, _ := obeyed(t, s)
			if err := verify(s, c, hello); (err == nil) != (shown == fits) {
				t.Errorf("runtime %s, and the sandbox looks like %s: error %v", runtime, shown, err)
			}
		}
	}
}

func verifyRefusesEachDifference(t *testing.T, s spec) {
	type differ func(*container.InspectResponse, *wire.Report)
	status := func(name, value string) differ {
		return func(_ *container.InspectResponse, r *wire.Report) { r.Status[name] = value }
	}
	cgroup := func(name, value string) differ {
		return func(_ *container.InspectResponse, r *wire.Report) { r.Cgroup[name] = value }
	}
	host := func(change func(*container.HostConfig)) differ {
		return func(c *container.InspectResponse, _ *wire.Report) { change(c.HostConfig) }
	}
	config := func(change func(*container.Config)) differ {
		return func(c *container.InspectResponse, _ *wire.Report) { change(c.Config) }
	}
	report := func(change func(*wire.Report)) differ {
		return func(_ *container.InspectResponse, r *wire.Report) { change(r) }
	}
	type difference struct {
		control string
		differ  differ
	}
	cases := []difference{
		{"image", func(c *container.InspectResponse, _ *wire.Report) { c.Image = "sha256:other" }},
		{"user", config(func(c *container.Config) { c.User = "7:7" })},
		{"entrypoint", config(func(c *container.Config) { c.Entrypoint = []string{"/bin/sh"} })},
		{"entrypoint", config(func(c *container.Config) { c.Cmd = []string{"x"} })},
		{"healthcheck", config(func(c *container.Config) { c.Healthcheck = nil })},
		{"healthcheck", config(func(c *container.Config) { c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "x"}} })},
		{"network", host(func(h *container.HostConfig) { h.NetworkMode = "bridge" })},
		{"network", report(func(r *wire.Report) { r.Interfaces = []string{"lo", "eth0"} })},
		{"network", report(func(r *wire.Report) { r.Interfaces = nil })},
		{"privileged", host(func(h *container.HostConfig) { h.Privileged = true })},
		{"read_only", host(func(h *container.HostConfig) { h.ReadonlyRootfs = false })},
		{"capabilities", host(func(h *container.HostConfig) { h.CapDrop = nil })},
		{"capabilities", host(func(h *container.HostConfig) { h.CapAdd = []string{"SYS_ADMIN"} })},
		{"capabilities", status("CapInh", "0000000000000001")},
		{"capabilities", status("CapPrm", "0000000000000001")},
		{"capabilities", status("CapEff", "0000000000000001")},
		{"capabilities", status("CapBnd", "0000000000000001")},
		{"capabilities", status("CapAmb", "")},
		{"security_options", host(func(h *container.HostConfig) { h.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined"} })},
		{"security_options", host(func(h *container.HostConfig) { h.SecurityOpt = []string{"no-new-privileges"} })},
		{"no_new_privileges", status("NoNewPrivs", "0")},
		{"user", status("Uid", "7\t7\t7\t7")},
		{"user", status("Gid", "7\t7\t7\t7")},
		{"groups", status("Groups", "0 999")},
		{"ipc", host(func(h *container.HostConfig) { h.IpcMode = "host" })},
		{"pid_namespace", host(func(h *container.HostConfig) { h.PidMode = "host" })},
		{"cgroup_namespace", host(func(h *container.HostConfig) { h.CgroupnsMode = "host" })},
		{"runtime", host(func(h *container.HostConfig) { h.Runtime = "other" })},
		{"tmpfs", host(func(h *container.HostConfig) { h.Tmpfs = map[string]string{"/tmp": "rw"} })},
		{"volumes", func(c *container.InspectResponse, _ *wire.Report) { c.Mounts[0].RW = true }},
		{"volumes", func(c *container.InspectResponse, _ *wire.Report) {
			c.Mounts = append(c.Mounts, container.MountPoint{Type: mount.TypeVolume, Name: "x", Destination: "/data", RW: true})
		}},
		{"binds", host(func(h *container.HostConfig) { h.Binds = []string{"/:/host"} })},
		{"binds", host(func(h *container.HostConfig) { h.VolumesFrom = []string{"x"} })},
		{"binds", host(func(h *container.HostConfig) { h.Devices = []container.DeviceMapping{{PathOnHost: "/dev/kvm"}} })},
		{"masked_paths", host(func(h *container.HostConfig) { h.MaskedPaths = nil })},
		{"readonly_paths", host(func(h *container.HostConfig) { h.ReadonlyPaths = nil })},
		{"memory", host(func(h *container.HostConfig) { h.Memory = 0 })},
		{"memory", cgroup("memory_bytes", "max")},
		{"memory", cgroup("memory_bytes", "")},
		{"swap", host(func(h *container.HostConfig) { h.MemorySwap = -1 })},
		{"cpu", host(func(h *container.HostConfig) { h.CPUQuota = -1 })},
		{"cpu", cgroup("cpu_quota_us", "-1")},
		{"cpu", cgroup("cpu_period_us", "1")},
		{"cpu_shares", host(func(h *container.HostConfig) { h.CPUShares = 1024 })},
		{"cgroup_parent", host(func(h *container.HostConfig) { h.CgroupParent = "/elsewhere" })},
		{"pids", host(func(h *container.HostConfig) { h.PidsLimit = nil })},
		{"nofile", report(func(r *wire.Report) { r.Rlimits["nofile"]++ })},
		{"core", report(func(r *wire.Report) { delete(r.Rlimits, "core") })},
		{"fsize", report(func(r *wire.Report) { r.Rlimits["fsize"] = 1 << 63 })},
		{"oom_score", host(func(h *container.HostConfig) { h.OomScoreAdj = 0 })},
		{"log", host(func(h *container.HostConfig) { h.LogConfig.Type = "json-file" })},
		{"writable_mounts", report(func(r *wire.Report) { r.Mounts[0].Bytes++ })},
		{"writable_mounts", report(func(r *wire.Report) { r.Mounts[1].Options = "rw,nodev" })},
		{"writable_mounts", report(func(r *wire.Report) {
			r.Mounts = append(r.Mounts, wire.Mount{Path: "/", Type: "overlay", Writable: true})
		})},
		{"inspect", func(c *container.InspectResponse, _ *wire.Report) { c.ContainerJSONBase = nil }},
		{"inspect", func(c *container.InspectResponse, _ *wire.Report) { c.Config = nil }},
	}
	if s.Grant.Runtime == gvisor {
		cases = append(cases, []difference{
			{"runtime", report(func(r *wire.Report) { r.Mounts[3].Type = "ext4" })},
			{"runtime", report(func(r *wire.Report) { r.Mounts[3].Options = "ro,trans=virtio" })},
			{"runtime", report(func(r *wire.Report) { r.Mounts = r.Mounts[:3] })},
		}...)
	} else {
		cases = append(cases, []difference{
			{"seccomp", status("Seccomp", "0")},
			{"swap", cgroup("swap_bytes", "max")},
			{"pids", cgroup("pids", "max")},
			{"writable_mounts", report(func(r *wire.Report) { r.Mounts[0].Inodes = 0 })},
			{"writable_mounts", report(func(r *wire.Report) { r.Mounts[0].Options = "rw,nosuid" })},
		}...)
	}
	c, hello := obeyed(t, s)
	if err := verify(s, c, hello); err != nil {
		t.Fatalf("a sandbox as it should be: %v", err)
	}
	every := map[string]bool{}
	for _, control := range append(engineControls(s, c), insideControls(s, hello.Report)...) {
		every[control.name] = true
	}
	for _, test := range cases {
		delete(every, test.control)
		c, hello := obeyed(t, s)
		test.differ(&c, &hello.Report)
		err := verify(s, c, hello)
		said, ok := errors.AsType[*execution.Error](err)
		if !ok || said.Kind != execution.KindUnavailable || said.Code != "control_not_enforced" || !strings.Contains(said.Detail, strconv.Quote(test.control)) {
			t.Errorf("%s differs: error %v", test.control, err)
		}
		optional := s
		optional.Grant.OptionalControls = []string{test.control}
		if err := verify(optional, c, hello); err != nil {
			t.Errorf("%s differs and is optional: %v", test.control, err)
		}
		optional.Grant.OptionalControls = []string{"another", test.control + "x"}
		if err := verify(optional, c, hello); err == nil {
			t.Errorf("%s differs and others are optional: it runs", test.control)
		}
	}
	for name := range maps.Keys(every) {
		t.Errorf("control %s is not made to differ here", name)
	}
	hello.Version++
	if verify(s, c, hello) == nil {
		t.Error("an agent of another version")
	}
	if verify(s, container.InspectResponse{}, wire.Hello{Version: wire.Version}) == nil {
		t.Error("nothing at all is reported, and it runs")
	}
}
