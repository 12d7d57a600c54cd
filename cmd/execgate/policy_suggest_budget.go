package main

import (
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// budgetOf is twice what was used.
func budgetOf(s sent) execution.NetworkBudget {
	var bytes int64
	var begins []time.Time
	var changes []change
	for _, record := range s.decided {
		begins = append(begins, record.Time)
		ended, ok := s.ended[record.Seq]
		if !ok {
			continue
		}
		bytes += ended.EgressEnded.BytesIn + ended.EgressEnded.BytesOut
		changes = append(changes, change{record.Time, 1}, change{ended.Time, -1})
	}
	slices.SortFunc(begins, time.Time.Compare)
	slices.SortStableFunc(changes, func(a, b change) int { return a.at.Compare(b.at) })
	var perSecond, first int
	for i, at := range begins {
		for at.Sub(begins[first]) >= time.Second {
			first++
		}
		perSecond = max(perSecond, i-first+1)
	}
	var open, most int64
	for _, c := range changes {
		open += c.by
		most = max(most, open)
	}
	return execution.NetworkBudget{
		Requests: 2 * max(1, int64(len(s.decided))), Bytes: 2 * max(1<<16, bytes),
		RequestsPerS: 2 * max(1, int64(perSecond)), Connections: 2 * max(1, most),
	}
}

// change is one more connection at once, or one less.
type change struct {
	at time.Time
	by int64
}
