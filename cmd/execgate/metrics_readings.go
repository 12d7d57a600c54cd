package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/execgate/execgate/executor"
)

// readings takes what a collector reads. What does not fit its family becomes an
// error of the answer: a panic here would be one of the whole process.
type readings chan<- prometheus.Metric

func (r readings) value(f family, value float64, labels ...string) {
	metric, err := prometheus.NewConstMetric(f.desc, f.kind, value, labels...)
	r.send(f, metric, err)
}

// values sends one value for each value of the family's one label.
func (r readings) values(f family, counts map[string]uint64) {
	for label, count := range counts {
		r.value(f, float64(count), label)
	}
}

// times sends one histogram for each value of the family's one label.
func (r readings) times(f family, all map[string]executor.Histogram) {
	for label, h := range all {
		metric, err := prometheus.NewConstHistogram(f.desc, h.Count, h.Sum, h.Buckets, label)
		r.send(f, metric, err)
	}
}

func (r readings) send(f family, metric prometheus.Metric, err error) {
	if err != nil {
		metric = prometheus.NewInvalidMetric(f.desc, err)
	}
	r <- metric
}
