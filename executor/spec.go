package executor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/go-units"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// Labels of every container. They cannot be changed once it is created.
const (
	labelPrefix    = "execgate."
	labelGateway   = labelPrefix + "gateway"
	labelExecution = labelPrefix + "execution"
	labelDeadline  = labelPrefix + "deadline" // milliseconds of Unix time
)

// agentPIDs is the stated headroom for the agent: threads that it may have
// beside the program's grant, and the few of the step that becomes the program.
const agentPIDs = 24

// hostPIDs is how many tasks of the host a sandbox may have. gVisor takes about
// 30 for itself and two for each process of the program, none for its threads,
// and ends where it finds no more: there it is a bound around the sandbox, within
// which RLIMIT_NPROC keeps the grant.
func hostPIDs(g execution.Grant) int64 {
	if g.Runtime == gvisor {
		return 2*(g.Limits.PIDs+agentPIDs) + 64
	}
	return g.Limits.PIDs + agentPIDs
}

// cpuPeriodUS is the kernel's default period, in microseconds
// (Documentation/scheduler/sched-bwc).
const cpuPeriodUS = 100_000

// oomScore makes the kernel choose a sandbox before anything of the host.
const oomScore = 500

// spec is everything that decides how a sandbox is created.
type spec struct {
	Gateway   string
	Execution string
	Deadline  time.Time // when anyone may reap the container
	UID       int       // in the profile reusable, the block of users that its programs get
	Profile   profile
	Parent    string // control group, as the engine's driver names it; empty: the engine's own place
	Grant     execution.Grant
	Image     imageFacts
	Engine    engineFacts
}

// profile is how agent and programs share a sandbox.
type profile string

const (
	// sealed: one user without any capability, and one program.
	sealed profile = "sealed"
	// reusable: the agent is root with the capabilities to become and to end
	// programs, each of which is a user of its own, without any capability.
	reusable profile = "reusable"
)

// reusableCapabilities are those of the agent in the profile reusable.
var reusableCapabilities = []string{"KILL", "SETGID", "SETPCAP", "SETUID"}

// imageFacts are what an image's metadata would add to a container.
type imageFacts struct {
	ID      string   // what the engine runs
	Env     []string // names of variables
	Volumes []string // paths
	Labels  []string // keys
}

// engineFacts are what the specification depends on.
type engineFacts struct {
	AgentVolume string
	Seccomp     string // the profile, as JSON
}

// options are what the engine is asked to create.
type options struct {
	Config *container.Config
	Host   *container.HostConfig
}

// build is the review surface: a pure function of the grant, with a golden file
// for each profile. It adds no default and exceeds no limit.
func (s spec) build() (options, error) {
	l := s.Grant.Limits
	if err := checkGrant(s.Grant); err != nil {
		return options{}, err
	}
	masks, err := volumeMasks(s.Image.Volumes)
	if err != nil {
		return options{}, err
	}
	tmpfs := map[string]string{
		"/tmp":         tmpfsOptions(l.TmpMiB, "mode=1777"),
		"/dev/shm":     tmpfsOptions(l.ShmMiB, "noexec,mode=1777"),
		wire.Workspace: tmpfsOptions(l.WorkspaceMiB, fmt.Sprintf("mode=0755,uid=%d,gid=%d", s.UID, s.UID)),
	}
	user, command, capabilities := fmt.Sprintf("%d:%d", s.UID, s.UID), strslice.StrSlice{}, strslice.StrSlice(nil)
	switch s.Profile {
	case sealed:
	case reusable:
		user, command, capabilities = "0:0", strslice.StrSlice{wire.ReusableArgument, strconv.Itoa(s.firstUser())}, reusableCapabilities
		tmpfs[wire.Workspace] = tmpfsOptions(l.WorkspaceMiB, "mode=1777")
	default:
		return options{}, fmt.Errorf("no profile %q", s.Profile)
	}
	maps.Copy(masks, tmpfs)

	config := &container.Config{
		Image:       s.Image.ID,
		User:        user,
		Hostname:    "sandbox",
		WorkingDir:  "/",
		Entrypoint:  strslice.StrSlice{wire.AgentPath},
		Cmd:         command,
		Env:         s.environment(),
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		StopSignal:  "SIGKILL",
		Labels:      s.labels(),
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
		OpenStdin: true, StdinOnce: true,
	}
	host := &container.HostConfig{
		NetworkMode:    "none",
		DNS:            []string{"127.0.0.1"},
		ReadonlyRootfs: true,
		CapDrop:        strslice.StrSlice{"ALL"},
		CapAdd:         capabilities,
		SecurityOpt:    []string{"no-new-privileges", "seccomp=" + s.Engine.Seccomp},
		IpcMode:        container.IPCModeNone,
		CgroupnsMode:   container.CgroupnsModePrivate,
		Runtime:        s.Grant.Runtime,
		OomScoreAdj:    oomScore,
		LogConfig:      container.LogConfig{Type: "none"},
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Tmpfs:          masks,
		Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: s.Engine.AgentVolume, Target: wire.AgentFolder, ReadOnly: true,
			VolumeOptions: &mount.VolumeOptions{NoCopy: true},
		}},
		MaskedPaths:   maskedPaths,
		ReadonlyPaths: readonlyPaths,
		Resources: container.Resources{
			CgroupParent: s.Parent,
			Memory:       l.MemoryMiB << 20,
			MemorySwap:   l.MemoryMiB << 20, // memory and swap together: no swap
			CPUPeriod:    cpuPeriodUS,
			CPUQuota:     l.CPUMillis * cpuPeriodUS / 1000,
			CPUShares:    l.CPUShares,
			PidsLimit:    pointer(hostPIDs(s.Grant)),
			Ulimits: []*units.Ulimit{
				{Name: "core", Soft: 0, Hard: 0},
				{Name: "fsize", Soft: fileSize(l), Hard: fileSize(l)},
				{Name: "nofile", Soft: l.NoFile, Hard: l.NoFile},
			},
		},
	}
	return options{config, host}, nil
}

// firstUser is the first of the users that programs get in the profile reusable:
// a block of its own for each UID, past all that are given singly.
func (s spec) firstUser() int { return s.UID * wire.UserCount }

// checkGrant refuses what cannot be carried out literally.
func checkGrant(g execution.Grant) error {
	if err := g.Limits.Validate(); err != nil {
		return err
	}
	if g.Image == "" || g.Runtime == "" {
		return fmt.Errorf("grant without image or runtime")
	}
	// Pages of a tmpfs count as memory, so full ones must leave the program
	// room to be told about it.
	l := g.Limits
	if sum := l.TmpMiB + l.WorkspaceMiB + l.ShmMiB; sum > l.MemoryMiB*3/4 {
		return fmt.Errorf("tmp_mib, workspace_mib and shm_mib are %d together, more than three quarters of memory_mib %d", sum, l.MemoryMiB)
	}
	return nil
}

// environment is the agent's, not the program's: the image's variables are
// unset (a name without a value), since some of them steer the Go runtime.
func (s spec) environment() []string {
	env := []string{"PATH=/nonexistent"}
	for _, name := range s.Image.Env {
		if name != "PATH" {
			env = append(env, name)
		}
	}
	slices.Sort(env)
	return env
}

// labels are ours, and every key that the image brings is emptied.
func (s spec) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range s.Image.Labels {
		labels[key] = ""
	}
	labels[labelGateway] = s.Gateway
	labels[labelExecution] = s.Execution
	labels[labelDeadline] = strconv.FormatInt(s.Deadline.UnixMilli(), 10)
	return labels
}

// fileSize is the largest file that any writable mount could hold, in bytes.
func fileSize(l execution.Limits) int64 {
	return max(l.TmpMiB, l.WorkspaceMiB, l.ShmMiB) << 20
}

// tmpfsOptions bounds a writable mount in bytes and in inodes.
func tmpfsOptions(mib int64, more string) string {
	return fmt.Sprintf("rw,nosuid,nodev,size=%d,nr_inodes=%d,%s", mib<<20, inodes(mib), more)
}

// inodes allows a file for every 8 KiB and some for small mounts. An inode
// costs about 1 KiB of the sandbox's own memory.
func inodes(mib int64) int64 { return 1024 + 128*mib }

func pointer[T any](v T) *T { return &v }
