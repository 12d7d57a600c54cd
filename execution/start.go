package execution

// Start says how a program came to begin.
type Start string

// How programs begin.
const (
	StartCold    Start = "cold"    // in a sandbox that was made for it
	StartWarm    Start = "warm"    // in one that was kept parked
	StartReuse   Start = "reuse"   // in one that had run for the same owner before
	StartSession Start = "session" // in that of its session
	StartCall    Start = "call"    // in none: of a Job with a Call, whose request is made
)

// Started is the body of a RecordStarted. What runs, and in which image, is in the
// decision's record.
type Started struct {
	DecidedSeq uint64 `json:"decided_seq"` // the record that opened this execution
	Start      Start  `json:"start"`
	WaitMS     int64  `json:"wait_ms"` // from when the decision was durable
}
