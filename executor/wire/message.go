package wire

import "encoding/json"

// Version is the version of this protocol. Both sides are built together, so a
// difference means a wrong agent binary and refuses the sandbox.
const Version = 2

// Paths inside every sandbox.
const (
	AgentFolder = "/execgate"       // where the volume with the agent is mounted, read-only
	AgentPath   = "/execgate/agent" // the agent binary
	Workspace   = "/workspace"      // the program's working directory
	ResultPath  = "/tmp/.execgate-result"
)

// ReadyVariable names the descriptor on which a driver that is parked writes
// ReadyParked when it waits for its job, and ReadyTaken when it has it; it then
// closes it. A driver that is not parked has no such variable.
const (
	ReadyVariable = "EXECGATE_READY"
	ReadyParked   = 'P'
	ReadyTaken    = 'T'
)

// ResultErrorSuffix, added to the result's path, names the file in which a
// driver says why it could not write the result.
const ResultErrorSuffix = ".error"

// Hello is the agent's first word: who it is and what it sees around itself.
// The gateway compares it with the grant before it sends the program.
type Hello struct {
	Version int    `json:"version"`
	Arch    string `json:"arch"` // GOARCH of the agent
	Report  Report `json:"report"`
}

// Report is the sandbox as seen from inside. A value that cannot be read is
// absent, and an expectation about it fails.
type Report struct {
	// Status holds fields of /proc/self/status as they stand there: Uid, Gid,
	// Groups, CapInh, CapPrm, CapEff, CapBnd, CapAmb, NoNewPrivs, Seccomp.
	Status     map[string]string `json:"status"`
	Interfaces []string          `json:"interfaces"`
	Mounts     []Mount           `json:"mounts"`
	// Cgroup holds the limits in force, under neutral names: memory_bytes,
	// swap_bytes (memory and swap together), cpu_quota_us, cpu_period_us,
	// cpu_shares, pids. "max" means none.
	Cgroup  map[string]string `json:"cgroup"`
	Rlimits map[string]uint64 `json:"rlimits"` // nofile, core, fsize: the hard limits
}

// Mount is one mount, as in /proc/self/mountinfo.
type Mount struct {
	Path    string `json:"path"`
	Type    string `json:"type"`
	Options string `json:"options"` // of the mount and of its file system, joined with a comma
	// Writable says whether the agent, and so a program of its user, may write
	// at the mount's root and what it writes stays there.
	Writable bool   `json:"writable,omitempty"`
	Bytes    uint64 `json:"bytes,omitempty"`
	Inodes   uint64 `json:"inodes,omitempty"`
}

// Process is what the agent starts.
type Process struct {
	// Argv is the program, or the driver of a language.
	Argv []string `json:"argv"`
	// Env is the whole environment, as NAME=value.
	Env []string `json:"env"`
	// PIDs is the most processes and threads that the program may have.
	PIDs int64 `json:"pids"`
}

// Start is the program to run.
type Start struct {
	// Process is what is started; nil where it was parked before.
	Process *Process `json:"process,omitempty"`
	// Job is what a driver reads from descriptor 3: a Driver as JSON, or code as
	// it is. It is nil where the process is the program itself.
	Job *string `json:"job,omitempty"`
	// ResultBytes, FilesBytes and FilesCount bound what is sent back.
	ResultBytes int64 `json:"result_bytes"`
	FilesBytes  int64 `json:"files_bytes"`
	FilesCount  int64 `json:"files_count"`
}

// Driver is the document that most languages' drivers read from descriptor 3.
type Driver struct {
	Code   string            `json:"code"`
	Input  json.RawMessage   `json:"input,omitempty"`
	Env    map[string]string `json:"env"`
	Result string            `json:"result"` // where to write the result, as JSON
}

// Exited is the agent's last word about a program.
type Exited struct {
	// ExitCode is the main process's, where Signal is 0.
	ExitCode int `json:"exit_code"`
	Signal   int `json:"signal"`
	// ResultError says why there is no result frame though the program wrote
	// one; FilesTruncated that artifacts were left out for their limits.
	ResultError    string `json:"result_error,omitempty"`
	FilesTruncated bool   `json:"files_truncated,omitempty"`

	WallUS int64 `json:"wall_us"`
	CPUUS  int64 `json:"cpu_us"`
	// PeakMemory is in bytes, of the whole sandbox.
	PeakMemory int64 `json:"peak_memory"`
	// OOMKills counts processes that the kernel killed for memory.
	OOMKills int64 `json:"oom_kills"`
	// PIDsHit is set where the sandbox held as many processes as granted, or
	// the kernel refused to make another.
	PIDsHit bool `json:"pids_hit"`
	// FullMounts are the writable mounts that were seen full.
	FullMounts []string `json:"full_mounts,omitempty"`
}
