package execution

import "encoding/json"

// Outcome is how an execution ended.
type Outcome string

// The outcomes. Where several hold, the first in this order is reported
// (exited stands last of those a program can bring about).
const (
	OutcomeCancelled   Outcome = "cancelled"     // the caller hung up or cancelled
	OutcomeTimedOut    Outcome = "timed_out"     // ran past timeout_ms
	OutcomeOutOfMemory Outcome = "out_of_memory" // the kernel killed for memory
	OutcomeOutputLimit Outcome = "output_limit"  // wrote more than output_kib
	OutcomePIDsLimit   Outcome = "pids_limit"    // failed after reaching pids
	OutcomeDiskLimit   Outcome = "disk_limit"    // failed while a writable mount was full
	OutcomeKilled      Outcome = "killed"        // ended by a signal, or by the loss of its sandbox
	OutcomeExited      Outcome = "exited"        // ended by itself, with an exit code

	// OutcomeEngineFailed means that the gateway's side failed; there is no
	// Result to speak of.
	OutcomeEngineFailed Outcome = "engine_failed"
	// OutcomeUnknownCrash is recorded for an execution that was open when the
	// gateway died.
	OutcomeUnknownCrash Outcome = "unknown_crash"
)

// Result is what came of a program that was started. A program that failed, or
// that a limit stopped, is a Result; an error means that the gateway failed.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// ExitCode is nil unless Outcome is exited, and of a Job with a Call.
	ExitCode *int `json:"exit_code"`
	// Status is what the destination of a Job with a Call has answered, whose body is
	// Stdout; 0: it did not, and Stdout says why, as a problem document (RFC 9457).
	Status int    `json:"-"`
	Stdout []byte `json:"-"`
	Stderr []byte `json:"-"`
	// Value is the program's result as JSON; nil where there is none.
	Value json.RawMessage `json:"result"`
	// ValueError says why a result could not be taken; empty where it could.
	ValueError string     `json:"result_error,omitempty"`
	Truncated  Truncated  `json:"truncated"`
	Artifacts  []Artifact `json:"artifacts"`
	Usage      Usage      `json:"usage"`
	// Session is what became of the session that it ran in; empty outside one.
	Session SessionState `json:"session,omitempty"`
}

// Truncated says which streams held more than was kept.
type Truncated struct {
	Stdout bool `json:"stdout"`
	Stderr bool `json:"stderr"`
}

// Artifact is one file that the program left under /workspace/out.
type Artifact struct {
	Path      string `json:"path"` // relative to /workspace/out
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"` // bytes
	Content   []byte `json:"content"`
}

// Usage is what an execution used.
type Usage struct {
	WallMS        int64    `json:"wall_ms"` // from the program's start to its end
	CPUMS         int64    `json:"cpu_ms"`  // user and system time of the sandbox
	PeakMemoryMiB int64    `json:"peak_memory_mib"`
	PeakProcesses int64    `json:"peak_processes"` // most processes and threads at once
	OutputBytes   int64    `json:"output_bytes"`   // written to stdout and stderr, also what was not kept
	Warm          bool     `json:"warm"`           // ran in a sandbox that was up before it was asked for
	LimitsHit     []string `json:"limits_hit"`     // names of limits that were met, also by programs that ended well
	// EgressRequests and EgressBytes count what left the sandbox.
	EgressRequests int64 `json:"egress_requests"`
	EgressBytes    int64 `json:"egress_bytes"`
}
