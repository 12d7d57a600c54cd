package egress

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// plenty is a budget that nothing here exceeds.
var plenty = execution.NetworkBudget{Requests: 100_000, Bytes: 1 << 50, RequestsPerS: 100_000, Connections: 100_000}

func TestBudgetIsExactUnderConcurrency(t *testing.T) {
	const callers = 200
	for _, tt := range []struct {
		code   string
		budget func(b *execution.NetworkBudget)
		want   int64
	}{
		{codeRequestsSpent, func(b *execution.NetworkBudget) { b.Requests = 77 }, 77},
		{codeConnectionsExceeded, func(b *execution.NetworkBudget) { b.Connections = 50 }, 50},
		{codeRateExceeded, func(b *execution.NetworkBudget) { b.RequestsPerS = 33 }, 33},
		{"", func(*execution.NetworkBudget) {}, callers},
		{codeBudgetInvalid, func(b *execution.NetworkBudget) { b.Requests = 0 }, 0},
		{codeBudgetInvalid, func(b *execution.NetworkBudget) { b.Bytes = 0 }, 0},
		{codeBudgetInvalid, func(b *execution.NetworkBudget) { b.RequestsPerS = 0 }, 0},
		{codeBudgetInvalid, func(b *execution.NetworkBudget) { b.Connections = -1 }, 0},
	} {
		budget := plenty
		tt.budget(&budget)
		a, now := newAccount(budget), time.Now()
		var begun atomic.Int64
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				switch code := a.begin(now); code {
				case "":
					begun.Add(1)
				case tt.code:
				default:
					t.Errorf("%+v: refused with %s, want %s", budget, code, tt.code)
				}
			})
		}
		all.Wait()
		if begun.Load() != tt.want || a.usage().Requests != tt.want {
			t.Errorf("%+v: %d begun and %d counted, want %d", budget, begun.Load(), a.usage().Requests, tt.want)
		}
	}
}

func TestConnectionMakesRoomForAnother(t *testing.T) {
	budget := plenty
	budget.Connections = 1
	a, now := newAccount(budget), time.Now()
	for _, step := range []struct {
		what string
		want string
	}{{"begin", ""}, {"begin", codeConnectionsExceeded}, {"release", ""}, {"begin", ""}, {"begin", codeConnectionsExceeded}} {
		if step.what == "release" {
			a.release()
		} else if code := a.begin(now); code != step.want {
			t.Fatalf("begin = %q, want %q", code, step.want)
		}
	}
}

func TestBytesAreTakenToTheLast(t *testing.T) {
	a := newAccount(execution.NetworkBudget{Requests: 1, RequestsPerS: 1, Connections: 1, Bytes: 100_001})
	var taken atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for range 10 {
				taken.Add(a.take(77))
			}
		})
	}
	all.Wait()
	if taken.Load() != 100_001 || a.take(1) != 0 || a.begin(time.Now()) != codeBytesSpent {
		t.Errorf("%d bytes of 100001 were given out", taken.Load())
	}
}

func TestNoSecondHasMoreThanTheRate(t *testing.T) {
	start := time.Now()
	w := window{most: 3}
	for _, tt := range []struct {
		ms   int
		want bool
	}{
		{0, true}, {10, true}, {900, true}, {950, false}, {999, false},
		{1000, true}, // the one of 0 is a second ago
		{1005, false}, {1010, true}, {1899, false}, {1900, true}, {1950, false}, {9000, true}, {9000, true}, {9000, true}, {9000, false},
	} {
		if got := w.admit(start.Add(time.Duration(tt.ms) * time.Millisecond)); got != tt.want {
			t.Errorf("after %d ms: %v, want %v", tt.ms, got, tt.want)
		}
	}
	busy := window{most: 10}
	for i := range 100_000 {
		busy.admit(start.Add(time.Duration(i) * time.Millisecond))
	}
	if len(busy.begun) > 21 {
		t.Errorf("the window remembers %d", len(busy.begun))
	}
}

func TestRefusalsAreRecordedUpToABound(t *testing.T) {
	for _, tt := range []struct {
		requests int64
		recorded int64 // and one more, which says that it is the last
	}{{0, leastRefusals}, {1, leastRefusals}, {100, 100}, {1 << 40, mostRefusals}} {
		a := newAccount(execution.NetworkBudget{Requests: tt.requests})
		var recorded, last int64
		for range 5000 {
			switch a.refuse("x") {
			case "x":
				recorded++
			case codeRefusalsSpent:
				last++
			}
		}
		if recorded != tt.recorded || last != 1 || a.usage().Unrecorded != 5000-recorded-1 {
			t.Errorf("of %d requests: %d recorded, %d the last, %d unrecorded, want %d recorded and one last",
				tt.requests, recorded, last, a.usage().Unrecorded, tt.recorded)
		}
	}
}
