package executor

import (
	"slices"
	"sync/atomic"
	"time"
)

// durationBounds are the upper bounds of a Histogram's buckets, in seconds: from
// a warm start to the longest timeout.
var durationBounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900}

// Histogram says how long something took.
type Histogram struct {
	Count uint64
	Sum   float64 // seconds
	// Buckets has by upper bound, in seconds, how many took at most as long.
	Buckets map[float64]uint64
}

// durations collects a Histogram. Its zero value is empty.
type durations struct {
	counts [len(durationBounds) + 1]atomic.Uint64 // each by itself; the last is past all bounds
	sum    atomic.Int64                           // nanoseconds
}

func (d *durations) add(took time.Duration) {
	i, _ := slices.BinarySearch(durationBounds[:], took.Seconds())
	d.counts[i].Add(1)
	d.sum.Add(int64(took))
}

func (d *durations) histogram() Histogram {
	h := Histogram{Sum: time.Duration(d.sum.Load()).Seconds(), Buckets: make(map[float64]uint64, len(durationBounds))}
	for i := range d.counts {
		h.Count += d.counts[i].Load()
		if i < len(durationBounds) {
			h.Buckets[durationBounds[i]] = h.Count
		}
	}
	return h
}
