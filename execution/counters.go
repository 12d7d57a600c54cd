package execution

// Counters are what somebody has used of late: the executions that were allowed,
// and those that are being decided, but for the one that is asked about.
type Counters struct {
	Running       int64 `json:"running"`         // now, also those that wait for a slot
	Executions1M  int64 `json:"executions_1m"`   // begun in the last minute
	CPUMS1H       int64 `json:"cpu_ms_1h"`       // of those that ended in the last hour
	EgressBytes1H int64 `json:"egress_bytes_1h"` // in both directions, of those that ended in the last hour
	Leases1H      int64 `json:"leases_1h"`       // lent in the last hour, or asked for by those under way
}
