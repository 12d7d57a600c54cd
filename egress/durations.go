package egress

import (
	"slices"
	"time"
)

// durationBounds are the upper bounds of a Histogram's buckets, in seconds: from a
// destination in the same room to an answer that is streamed for minutes.
var durationBounds = [...]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// Histogram says how long something took.
type Histogram struct {
	Count uint64
	Sum   float64 // seconds
	// Buckets has by upper bound, in seconds, how many took at most as long.
	Buckets map[float64]uint64
}

// durations collects a Histogram. Its zero value is empty; it is not safe for
// concurrent use.
type durations struct {
	counts [len(durationBounds) + 1]uint64 // each by itself; the last is past all bounds
	sum    time.Duration
}

func (d *durations) add(took time.Duration) {
	i, _ := slices.BinarySearch(durationBounds[:], took.Seconds())
	d.counts[i]++
	d.sum += took
}

func (d *durations) histogram() Histogram {
	h := Histogram{Sum: d.sum.Seconds(), Buckets: make(map[float64]uint64, len(durationBounds))}
	for i, n := range d.counts {
		h.Count += n
		if i < len(durationBounds) {
			h.Buckets[durationBounds[i]] = h.Count
		}
	}
	return h
}
