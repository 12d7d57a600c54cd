package egress

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// Stats is what a Broker has done since it was made.
type Stats struct {
	Executions int   // that have used egress, and of which End was not called yet
	Active     int64 // connections now, also those that are being decided
	// Connections are those that came to their end, by what became of them; of the mode
	// intercept only those that were refused before a request was read.
	Connections map[Outcome]uint64
	// Requests are those of the mode intercept, by what became of them.
	Requests        map[RequestOutcome]uint64
	RequestBytesOut uint64 // of their bodies
	RequestBytesIn  uint64 // of the answers' bodies
	// RequestSeconds says how long requests took that were allowed, from then to the
	// answer's last byte, by the class of its status.
	RequestSeconds map[string]Histogram
	BytesOut       uint64 // to destinations
	BytesIn        uint64 // from destinations
	// Unrecorded are refusals past the number of an execution that are recorded.
	Unrecorded    uint64
	RecordsFailed uint64 // records that could not be written
	Kept          int    // connections that wait for further calls of http tools
	Reused        uint64 // calls that had one of them
}

// Outcome is what became of a connection or request. Of one that was denied Code says why, of
// one that was allowed how it ended, where not by either side's end. Codes are few.
type Outcome struct {
	Effect execution.Effect
	Code   string
}

// RequestOutcome is what became of a request. Status is the class of what the
// destination has answered, such as "2xx"; empty where it has not.
type RequestOutcome struct {
	Outcome
	Status string
}

// counts are the counters behind Stats.
type counts struct {
	active, bytesOut, bytesIn, unrecorded, reused atomic.Int64

	requestOut, requestIn atomic.Int64

	mu          sync.Mutex
	connections map[Outcome]uint64
	requests    map[RequestOutcome]uint64
	took        map[string]*durations // by the class of a status
}

func newCounts() counts {
	return counts{connections: map[Outcome]uint64{}, requests: map[RequestOutcome]uint64{}, took: map[string]*durations{}}
}

// request counts one that was refused.
func (c *counts) request(outcome RequestOutcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[outcome]++
}

// carried counts a request that was allowed, with the bytes of both bodies.
func (c *counts) carried(code string, status int, out, in int64, took time.Duration) {
	class := classOf(status)
	c.requestOut.Add(out)
	c.requestIn.Add(in)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[RequestOutcome{Outcome{execution.EffectAllow, code}, class}]++
	d := c.took[class]
	if d == nil {
		d = new(durations)
		c.took[class] = d
	}
	d.add(took)
}

// classOf is the class of a status (RFC 9110, 15), which is one of five; empty where
// there is none.
func classOf(status int) string {
	if status < 100 || status > 599 {
		return ""
	}
	return string(rune('0'+status/100)) + "xx"
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
	seconds := make(map[string]Histogram, len(b.counts.took))
	for class, d := range b.counts.took {
		seconds[class] = d.histogram()
	}
	return Stats{
		Requests: maps.Clone(b.counts.requests), RequestSeconds: seconds,
		RequestBytesOut: uint64(b.counts.requestOut.Load()), RequestBytesIn: uint64(b.counts.requestIn.Load()),
		Executions: executions, Active: b.counts.active.Load(), Connections: maps.Clone(b.counts.connections),
		BytesOut: uint64(b.counts.bytesOut.Load()), BytesIn: uint64(b.counts.bytesIn.Load()),
		Unrecorded: uint64(b.counts.unrecorded.Load()), RecordsFailed: b.records.failures.Load(),
		Kept: b.kept.len(), Reused: uint64(b.counts.reused.Load()),
	}
}
