package replay

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// Report says what was replayed, and what came of it.
type Report struct {
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Was and Is name what was compared: a revision or a folder, or "recorded".
	Was string `json:"was"`
	Is  string `json:"is"`
	// Replayed is the number of decisions that were compared. Each is counted in
	// Classes once as same, or else in every class that it is of.
	Replayed  uint64           `json:"replayed"`
	Differing uint64           `json:"differing"`
	Classes   map[Class]uint64 `json:"classes"`
	// ByTenant, ByAction and ByRule count those that differ. An action is a tool's
	// name where there is one, and a rule one that only one of both decisions
	// names; what is past MaxLabels labels is counted under OtherLabels.
	ByTenant map[string]map[Class]uint64 `json:"by_tenant"`
	ByAction map[string]map[Class]uint64 `json:"by_action"`
	ByRule   map[string]map[Class]uint64 `json:"by_rule"`
	// Unreplayable are decisions that could not be replayed, by reason. They are in
	// no other count.
	Unreplayable map[string]uint64 `json:"unreplayable"`
	// Samples are the earliest of each class but Same.
	Samples []Sample `json:"samples"`
	Seconds float64  `json:"seconds"`
}

// Bounds of a Report.
const (
	MaxLabels   = 1000
	OtherLabels = "(others)"
)

// Sample is one decision that differs.
type Sample struct {
	Execution  string             `json:"execution"`
	Seq        uint64             `json:"seq"`
	Time       time.Time          `json:"time"`
	Tenant     string             `json:"tenant"`
	Action     string             `json:"action"`
	Classes    []Class            `json:"classes"`
	Was        execution.Effect   `json:"was"`
	Is         execution.Effect   `json:"is"`
	WasReasons []execution.Reason `json:"was_reasons"`
	IsReasons  []execution.Reason `json:"is_reasons"`
	// Limits are those that differ.
	Limits []LimitChange `json:"limits,omitempty"`
}

// LimitChange is a limit that is another.
type LimitChange struct {
	Limit string `json:"limit"`
	Was   int64  `json:"was"`
	Is    int64  `json:"is"`
}

// Found reports how many decisions are of one of the classes.
func (r *Report) Found(classes ...Class) (n uint64) {
	for _, class := range classes {
		n += r.Classes[class]
	}
	return n
}

// PerSecond is the rate of the replay.
func (r *Report) PerSecond() float64 {
	if r.Seconds <= 0 {
		return 0
	}
	return float64(r.Replayed) / r.Seconds
}

func newReport() *Report {
	return &Report{
		Classes: map[Class]uint64{}, Unreplayable: map[string]uint64{}, Samples: []Sample{},
		ByTenant: map[string]map[Class]uint64{}, ByAction: map[string]map[Class]uint64{}, ByRule: map[string]map[Class]uint64{},
	}
}

// count counts a decision that was compared. s is nil where it is the same.
func (r *Report) count(classes []Class, s *Sample, rules []string, samples int) {
	r.Replayed++
	for _, class := range classes {
		r.Classes[class]++
	}
	if s == nil {
		return
	}
	r.Differing++
	for _, class := range classes {
		addLabel(r.ByTenant, s.Tenant, class, 1)
		addLabel(r.ByAction, s.Action, class, 1)
		for _, rule := range rules {
			addLabel(r.ByRule, rule, class, 1)
		}
	}
	r.Samples = bound(append(r.Samples, *s), samples)
}

func addLabel(by map[string]map[Class]uint64, label string, class Class, n uint64) {
	if _, ok := by[label]; !ok && len(by) >= MaxLabels {
		label = OtherLabels
	}
	if by[label] == nil {
		by[label] = map[Class]uint64{}
	}
	by[label][class] += n
}

// add adds the counts of other.
func (r *Report) add(other *Report, samples int) {
	r.Replayed += other.Replayed
	r.Differing += other.Differing
	for class, n := range other.Classes {
		r.Classes[class] += n
	}
	for why, n := range other.Unreplayable {
		r.Unreplayable[why] += n
	}
	for _, pair := range [][2]map[string]map[Class]uint64{{r.ByTenant, other.ByTenant}, {r.ByAction, other.ByAction}, {r.ByRule, other.ByRule}} {
		for _, label := range slices.Sorted(maps.Keys(pair[1])) {
			for class, n := range pair[1][label] {
				addLabel(pair[0], label, class, n)
			}
		}
	}
	r.Samples = bound(append(r.Samples, other.Samples...), samples)
}

// bound keeps the earliest samples, as many of each class. A sample is kept where
// any of its classes still has room.
func bound(all []Sample, most int) []Sample {
	slices.SortFunc(all, func(a, b Sample) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Execution, b.Execution))
	})
	seen := map[Class]int{}
	return slices.DeleteFunc(all, func(s Sample) bool {
		room := slices.ContainsFunc(s.Classes, func(c Class) bool { return seen[c] < most })
		if room {
			for _, class := range s.Classes {
				seen[class]++
			}
		}
		return !room
	})
}
