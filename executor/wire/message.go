package wire

import "encoding/json"

// Version is the version of this protocol. Both sides are built together, so a
// difference means a wrong agent binary and refuses the sandbox.
const Version = 5

// Paths inside every sandbox.
const (
	AgentFolder = "/execgate"       // where the volume with the agent is mounted, read-only
	AgentPath   = "/execgate/agent" // the agent binary
	Workspace   = "/workspace"      // the program's working directory
	ResultPath  = "/tmp/.execgate-result"
	// TrustPath is a file of certificates, as PEM: those that the image trusts, and
	// that of a FrameAuthority.
	TrustPath = "/tmp/.execgate-trust.pem"
)

// ReadyVariable names the descriptor on which a driver that is parked, or that
// stays, writes ReadyParked when it waits for its first job, and ReadyTaken when
// it has a job. It then closes it, or, if it stays, writes ReadyDone and the
// exit status as one byte when the program has ended. Other drivers have no such
// variable.
const (
	ReadyVariable = "EXECGATE_READY"
	ReadyParked   = 'P'
	ReadyTaken    = 'T'
	ReadyDone     = 'D'
)

// SessionVariable is 1 for a driver that is started to stay.
const SessionVariable = "EXECGATE_SESSION"

// ForkVariable names the descriptor of the socket (SOCK_SEQPACKET) by which a
// driver that forks gets its jobs: each a Fork as JSON, with the descriptors for
// stdin, stdout, stderr, the job and ready.
const ForkVariable = "EXECGATE_FORK"

// ReusableArgument is the agent's first argument in a sandbox that may be
// reused; the second is the first of UserCount users that its programs get.
const (
	ReusableArgument = "reusable"
	UserCount        = 4096
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
	// Stays says that it is a driver that takes further jobs; Fork that it forks
	// for each job, and is only parked.
	Stays bool `json:"stays,omitempty"`
	Fork  bool `json:"fork,omitempty"`
}

// Fork is what a driver that forks is told of its next program.
type Fork struct {
	UID  int         `json:"uid"`
	PIDs int64       `json:"pids"`
	Env  [][2]string `json:"env"`
}

// Keep is what becomes of a sandbox when its program has ended.
type Keep string

// The zero Keep is for one program only.
const (
	KeepSession Keep = "session" // files and interpreter stay for the next program
	KeepReuse   Keep = "reuse"   // nothing stays but what was parked
)

// Start is the program to run.
type Start struct {
	// Round counts the programs of a sandbox, from 1. A FrameSignal names it.
	Round uint32 `json:"round"`
	Keep  Keep   `json:"keep,omitempty"`
	// Process is what is started where nothing waits for the job.
	Process Process `json:"process"`
	// Job is what a driver reads from descriptor 3: a Driver as JSON, or code as
	// it is. It is nil where the process is the program itself.
	Job *string `json:"job,omitempty"`
	// ResultBytes, FilesBytes and FilesCount bound what is sent back.
	ResultBytes int64 `json:"result_bytes"`
	FilesBytes  int64 `json:"files_bytes"`
	FilesCount  int64 `json:"files_count"`
	// Network is what the program may reach; nil: nothing.
	Network *Network `json:"network,omitempty"`
	// Secrets are files for the program alone, which are gone when it has ended.
	Secrets []SecretFile `json:"secrets,omitempty"`
}

// Network is how the agent takes connections from a program. Which names are
// granted is not said: that is decided outside, of each connection.
type Network struct {
	Ports []uint16 `json:"ports"` // those that any name may be reached at
	// Connections are the most at once.
	Connections int `json:"connections"`
	// Hidden says that names which are not granted are not to be found: of each name
	// that the program looks up the gateway is asked. Otherwise all of them are, so
	// that a connection can be refused in words.
	Hidden bool `json:"hidden,omitempty"`
}

// SecretFile is a file with a secret.
type SecretFile struct {
	Path    string `json:"path"` // below /tmp or Workspace
	Content string `json:"content"`
}

// Driver is the document that most languages' drivers read from descriptor 3.
type Driver struct {
	Code   string            `json:"code"`
	Input  json.RawMessage   `json:"input,omitempty"`
	Env    map[string]string `json:"env"`
	Result string            `json:"result"` // where to write the result, as JSON
	// Session says that the driver stays for further jobs.
	Session bool `json:"session,omitempty"`
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
	// Processes is the most processes and threads that the program had at once.
	Processes int64 `json:"processes"`
	// OOMKills counts processes that the kernel killed for memory.
	OOMKills int64 `json:"oom_kills"`
	// PIDsHit is set where the sandbox held as many processes as granted, or
	// the kernel refused to make another.
	PIDsHit bool `json:"pids_hit"`
	// FullMounts are the writable mounts that were seen full.
	FullMounts []string `json:"full_mounts,omitempty"`

	// Stayed says that the driver waits for another job.
	Stayed bool `json:"stayed,omitempty"`
}

// Cleaned is what the agent found after it had cleaned a sandbox for another
// program. One that left anything is removed.
type Cleaned struct {
	// Checks are all that were made, by name; those that failed say what was left.
	Checks map[string]string `json:"checks"`
}

// The checks of Cleaned. The value of one that was passed is empty.
const (
	CheckProcesses = "processes"
	CheckFiles     = "files" // names in the writable mounts
	CheckSpace     = "space" // bytes and inodes used in them
	CheckIPC       = "ipc"   // System V objects
	CheckPorts     = "ports" // sockets that listen
	CheckParked    = "parked"
)

// Checks are those that a Cleaned must hold.
var Checks = []string{CheckProcesses, CheckFiles, CheckSpace, CheckIPC, CheckPorts, CheckParked}

// Fetch asks for a file of the workspace.
type Fetch struct {
	Path string `json:"path"`
	Max  int64  `json:"max"` // bytes
}

// Problem is why a file could not be put or fetched; the zero Problem is none.
type Problem string

// The problems.
const (
	ProblemNotFound Problem = "not_found"
	ProblemRefused  Problem = "refused"   // no regular file, or a link or file in its way
	ProblemTooLarge Problem = "too_large" // larger than asked for, or no room
)

// Done is the agent's answer to a FrameSync, and to a FrameFetch that fails.
type Done struct {
	Problem Problem `json:"problem,omitempty"`
}
