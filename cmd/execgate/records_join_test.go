package main

import (
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// A log that has one caller has batches of one record: the index takes as many of them at
// once as it may, and not those alone that wait when it looks.
func TestRecordsAreAddedTogether(t *testing.T) {
	for name, test := range map[string]struct{ sent, want int }{
		"fewer than fit": {500, 500},
		"more than fit":  {indexBatch + 500, indexBatch},
	} {
		t.Run(name, func(t *testing.T) {
			from := make(chan []execution.Record)
			go func() {
				defer close(from)
				for range test.sent {
					select {
					case from <- make([]execution.Record, 1):
					case <-t.Context().Done():
					}
				}
			}()
			if got := len(joined(t.Context(), <-from, from, time.Minute)); got != test.want {
				t.Errorf("%d records are added together, want %d", got, test.want)
			}
		})
	}
	from := make(chan []execution.Record)
	if got := len(joined(t.Context(), make([]execution.Record, 3), from, 0)); got != 3 {
		t.Errorf("what comes alone is added as %d records, want 3", got)
	}
}
