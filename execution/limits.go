package execution

import "fmt"

// Limits bounds what one execution may use. Every field has its unit in its
// name. In a Request zero means "not asked"; in a Grant every field is set and
// zero is invalid, so that a forgotten limit refuses to run instead of running
// without a bound.
type Limits struct {
	TimeoutMS    int64 `json:"timeout_ms,omitempty"`    // wall time of the program
	MemoryMiB    int64 `json:"memory_mib,omitempty"`    // resident memory, tmpfs pages and swap together
	CPUMillis    int64 `json:"cpu_millis,omitempty"`    // thousandths of one CPU
	CPUShares    int64 `json:"cpu_shares,omitempty"`    // relative weight under contention
	PIDs         int64 `json:"pids,omitempty"`          // processes and threads of the program
	NoFile       int64 `json:"nofile,omitempty"`        // open descriptors of one process
	TmpMiB       int64 `json:"tmp_mib,omitempty"`       // size of /tmp
	WorkspaceMiB int64 `json:"workspace_mib,omitempty"` // size of /workspace
	ShmMiB       int64 `json:"shm_mib,omitempty"`       // size of /dev/shm
	OutputKiB    int64 `json:"output_kib,omitempty"`    // stdout and stderr together
	ResultKiB    int64 `json:"result_kib,omitempty"`    // the result value, as JSON
	FilesMiB     int64 `json:"files_mib,omitempty"`     // artifacts together
	FilesCount   int64 `json:"files_count,omitempty"`   // number of artifacts
}

// Limit describes one field of Limits.
type Limit struct {
	// Name is the key used in JSON, in policy and in reports.
	Name string
	// Min and Max bound what is a sensible number at all. They catch slips of
	// the hand and overflow; what a caller may have is for policy to say.
	Min, Max int64

	field func(*Limits) *int64
}

// Of returns the address of this limit's field in l.
func (d Limit) Of(l *Limits) *int64 { return d.field(l) }

var limits = []Limit{
	{"timeout_ms", 1, 24 * 60 * 60 * 1000, func(l *Limits) *int64 { return &l.TimeoutMS }},
	{"memory_mib", 16, 1 << 20, func(l *Limits) *int64 { return &l.MemoryMiB }},
	{"cpu_millis", 10, 1_000_000, func(l *Limits) *int64 { return &l.CPUMillis }},
	// The kernel accepts cpu.shares from 2 to 262144 (Documentation/scheduler/sched-design-CFS).
	{"cpu_shares", 2, 262_144, func(l *Limits) *int64 { return &l.CPUShares }},
	{"pids", 1, 1 << 20, func(l *Limits) *int64 { return &l.PIDs }},
	{"nofile", 16, 1 << 20, func(l *Limits) *int64 { return &l.NoFile }},
	{"tmp_mib", 1, 1 << 20, func(l *Limits) *int64 { return &l.TmpMiB }},
	{"workspace_mib", 1, 1 << 20, func(l *Limits) *int64 { return &l.WorkspaceMiB }},
	{"shm_mib", 1, 1 << 20, func(l *Limits) *int64 { return &l.ShmMiB }},
	{"output_kib", 1, 1 << 20, func(l *Limits) *int64 { return &l.OutputKiB }},
	{"result_kib", 1, 1 << 20, func(l *Limits) *int64 { return &l.ResultKiB }},
	{"files_mib", 1, 1 << 10, func(l *Limits) *int64 { return &l.FilesMiB }},
	{"files_count", 1, 10_000, func(l *Limits) *int64 { return &l.FilesCount }},
}

// AllLimits describes every field of Limits, in the order of the struct.
func AllLimits() []Limit { return limits }

// LimitNamed returns the description of the limit called name.
func LimitNamed(name string) (Limit, bool) {
	for _, d := range limits {
		if d.Name == name {
			return d, true
		}
	}
	return Limit{}, false
}

// Validate reports the first limit that is missing or out of its sensible
// range. It is the rule of a Grant: nothing downstream has a default.
func (l Limits) Validate() error {
	for _, d := range limits {
		if v := *d.Of(&l); v < d.Min || v > d.Max {
			return fmt.Errorf("limit %s is %d: it must be from %d to %d", d.Name, v, d.Min, d.Max)
		}
	}
	return nil
}

// Min is the smaller of each limit, where one that is zero does not count.
func (l Limits) Min(other Limits) Limits {
	for _, d := range limits {
		if v := *d.Of(&other); v != 0 && (*d.Of(&l) == 0 || v < *d.Of(&l)) {
			*d.Of(&l) = v
		}
	}
	return l
}
