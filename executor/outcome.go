package executor

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// ending is all that is known about how a program ended.
type ending struct {
	cancelled, timedOut, outputExceeded bool
	oomKilled                           bool // by the engine's count, where the agent is gone
	exited                              *wire.Exited
	began                               time.Time
}

// mountLimits are the limits that bound the writable mounts.
var mountLimits = map[string]string{"/tmp": "tmp_mib", wire.Workspace: "workspace_mib", "/dev/shm": "shm_mib"}

// outcome picks the first that holds, in the order of execution.Outcome. A
// program that met a limit and still ended well is exited.
func (e ending) outcome() execution.Outcome {
	x := e.exited
	failed := x == nil || x.ExitCode != 0 || x.Signal != 0
	switch {
	case e.cancelled:
		return execution.OutcomeCancelled
	case e.timedOut:
		return execution.OutcomeTimedOut
	case failed && (e.oomKilled || x != nil && x.OOMKills > 0):
		return execution.OutcomeOutOfMemory
	case e.outputExceeded:
		return execution.OutcomeOutputLimit
	case failed && x != nil && x.PIDsHit:
		return execution.OutcomePIDsLimit
	case failed && x != nil && len(x.FullMounts) > 0:
		return execution.OutcomeDiskLimit
	case x == nil || x.Signal != 0:
		return execution.OutcomeKilled
	}
	return execution.OutcomeExited
}

// limitsHit names every limit that was met, also by a program that ended well.
func (e ending) limitsHit() []string {
	hit := []string{}
	if e.timedOut {
		hit = append(hit, "timeout_ms")
	}
	x := e.exited
	if e.oomKilled || x != nil && x.OOMKills > 0 {
		hit = append(hit, "memory_mib")
	}
	if e.outputExceeded {
		hit = append(hit, "output_kib")
	}
	if x == nil {
		return hit
	}
	if x.PIDsHit {
		hit = append(hit, "pids")
	}
	for _, mount := range x.FullMounts {
		if name, ok := mountLimits[mount]; ok {
			hit = append(hit, name)
		}
	}
	if x.FilesTruncated {
		hit = append(hit, "files_mib")
	}
	return hit
}

// result joins the ending with what the program left.
func (c *conversation) result() execution.Result {
	r := execution.Result{Artifacts: c.artifacts}
	r.Stdout, r.Truncated.Stdout = c.output.take(&c.output.stdout)
	r.Stderr, r.Truncated.Stderr = c.output.take(&c.output.stderr)
	// A program may be gone before it can be stopped for it.
	c.ending.outputExceeded = c.ending.outputExceeded || r.Truncated.Stdout || r.Truncated.Stderr
	r.Outcome = c.ending.outcome()
	r.Value, r.ValueError = checkValue(c.value)
	r.Usage.LimitsHit = c.ending.limitsHit()
	wall, cpu, peak := c.used()
	r.Usage.WallMS, r.Usage.CPUMS = wall.Milliseconds(), cpu.Milliseconds()
	r.Usage.OutputBytes = c.output.count()
	r.Usage.PeakMemoryMiB = (peak + 1<<20 - 1) >> 20
	x := c.ending.exited
	if x == nil {
		return r
	}
	r.Usage.PeakProcesses = min(x.Processes, c.job.Grant.Limits.PIDs)
	if r.Outcome == execution.OutcomeExited {
		r.ExitCode = &x.ExitCode
	}
	if x.ResultError != "" {
		r.ValueError = strings.ToValidUTF8(x.ResultError[:min(len(x.ResultError), maxValueError)], "")
	}
	return r
}

// maxValueError bounds what is said of a result that cannot be taken, in bytes.
const maxValueError = 2048

// maxValueDepth bounds the nesting of a result, which others will parse.
const maxValueDepth = 200

// checkValue accepts a result only as JSON of a sensible depth.
func checkValue(value []byte) (json.RawMessage, string) {
	if len(bytes.TrimSpace(value)) == 0 {
		return nil, ""
	}
	// Depth first: the parser gives up on deep nesting too, and says less.
	if depth(value) > maxValueDepth {
		return nil, "the result is nested too deeply: at most 200 levels"
	}
	if !json.Valid(value) {
		return nil, "the result is not JSON: write one JSON value to the file named by EXECGATE_RESULT"
	}
	// The parser lets any bytes through within a string; RFC 8259, section 8.1
	// does not.
	if !utf8.Valid(value) {
		return nil, "the result is not UTF-8, as JSON has to be"
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return nil, "the result is not JSON: " + err.Error()
	}
	return compact.Bytes(), ""
}

// depth is the nesting of JSON, and some number for anything else.
func depth(value []byte) int {
	deepest, now, inString := 0, 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
