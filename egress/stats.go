package egress

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/execgate/execgate/execution"
)

// Stats is what a Broker has done since it was made.
type Stats struct {
	Executions int   // that have used egress, and of which End was not called yet
	Active     int64 // connections now, also those that are being decided
	// Connections are those that came to their end, of the mode intercept the requests,
	// by what became of them.
	Connections map[Outcome]uint64
	BytesOut    uint64 // to destinations
	BytesIn     uint64 // from destinations
	// Unrecorded are refusals past the number of an execution that are recorded.
	Unrecorded    uint64
	RecordsFailed uint64 // records that could not be written
}

// Outcome is what became of a connection or request. Of one that was denied Code says why, of
// one that was allowed how it ended, where not by either side's end. Codes are few.
type Outcome struct {
	Effect execution.Effect
	Code   string
}

// counts are the counters behind Stats.
type counts struct {
	active, bytesOut, bytesIn, unrecorded atomic.Int64

	mu          sync.Mutex
	connections map[Outcome]uint64
}

func (c *counts) end(effect execution.Effect, code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connections[Outcome{effect, code}]++
}

// Stats returns the counters as they are now.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	executions := len(b.accounts)
	b.mu.Unlock()
	b.counts.mu.Lock()
	defer b.counts.mu.Unlock()
	return Stats{
		Executions: executions, Active: b.counts.active.Load(), Connections: maps.Clone(b.counts.connections),
		BytesOut: uint64(b.counts.bytesOut.Load()), BytesIn: uint64(b.counts.bytesIn.Load()),
		Unrecorded: uint64(b.counts.unrecorded.Load()), RecordsFailed: b.records.failures.Load(),
	}
}
