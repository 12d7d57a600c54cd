package gateway

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// A window is compared with the obvious way: everything is kept, and summed.
func TestWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	type added struct {
		at time.Time
		n  int64
	}
	for range 200 {
		w := window{step: time.Second}
		var all []added
		now := time.Unix(1_800_000_000, 0)
		for range 300 {
			now = now.Add(time.Duration(random.Int64N(int64([]time.Duration{time.Millisecond, time.Second, 40 * time.Second, 3 * time.Minute}[random.IntN(4)]) + 1)))
			at := now.Add(-time.Duration(random.Int64N(int64(5 * time.Second)))) // given back, or a clock that was set
			n := random.Int64N(10)
			w.add(at, n)
			all = append(all, added{at, n})
			var atLeast, atMost int64
			for _, a := range all {
				if a.at.After(now.Add(-60 * time.Second)) {
					atLeast += a.n
				}
				if a.at.After(now.Add(-62 * time.Second)) {
					atMost += a.n
				}
			}
			if got := w.sum(now); got < atLeast || got > atMost {
				t.Fatalf("sum is %d: want from %d to %d", got, atLeast, atMost)
			}
		}
	}
}

// A clock that was ahead and is set back neither forgets what was counted nor keeps from
// counting, and what it counted while it was ahead ends a window later.
func TestWindowOfAClockThatIsSetBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	w := window{step: time.Second}
	w.add(now, 1)
	w.add(now.Add(24*time.Hour), 2) // which ends the first
	for n := range int64(3) {
		w.add(now, 1)
		if got := w.sum(now); got != 3+n {
			t.Errorf("the sum is %d, want %d", got, 3+n)
		}
	}
	w.add(now.Add(24*time.Hour), -1) // given back
	if got := w.sum(now); got != 4 {
		t.Errorf("the sum is %d, want 4", got)
	}
	if got := w.sum(now.Add(62 * time.Second)); got != 0 {
		t.Errorf("the sum is %d after a window", got)
	}
}

func TestBudgets(t *testing.T) {
	b := newBudgets()
	now := time.Unix(1_800_000_000, 0)
	ann, bob, eve := execution.Owner{Tenant: "acme", Subject: "ann"}, execution.Owner{Tenant: "acme", Subject: "bob"}, execution.Owner{Tenant: "evil", Subject: "ann"}
	first := b.charge(ann, now, 2)
	second := b.charge(bob, now, 3)
	if first.seen != (seen{}) {
		t.Errorf("the first sees %+v", first.seen)
	}
	want := seen{tenant: execution.Counters{Running: 1, Executions1M: 1, Leases1H: 2}}
	if second.seen != want {
		t.Errorf("the second sees %+v, want %+v", second.seen, want)
	}
	if b.see(eve, now) != (seen{}) {
		t.Error("a tenant sees another's")
	}
	second.giveBack()
	first.end(now, execution.Usage{CPUMS: 1500, EgressBytes: 70}, 1)
	used := execution.Counters{Executions1M: 1, CPUMS1H: 1500, EgressBytes1H: 70, Leases1H: 1}
	want = seen{used, used}
	if got := b.see(ann, now); got != want {
		t.Errorf("after its end %+v, want %+v", got, want)
	}
	if got := b.see(ann, now.Add(62*time.Second)).tenant; got.Executions1M != 0 || got.CPUMS1H != 1500 {
		t.Errorf("a minute later %+v", got)
	}
	later := now.Add(2 * time.Hour)
	b.charge(eve, later, 0)
	if len(b.tenants) != 1 || len(b.principals) != 1 {
		t.Errorf("%d tenants and %d principals are remembered", len(b.tenants), len(b.principals))
	}
}

// What a long execution was lent is taken off where it was counted, and what others
// have used since is not forgotten for that.
func TestLeasesOfALongExecution(t *testing.T) {
	for name, lent := range map[string]int{"all": 2, "one": 1, "none": 0} {
		t.Run(name, func(t *testing.T) {
			b := newBudgets()
			now := time.Unix(1_800_000_000, 0)
			ann := execution.Owner{Tenant: "acme", Subject: "ann"}
			long := b.charge(ann, now, 2)
			later := now.Add(2 * time.Hour)
			b.charge(ann, later, 5).end(later, execution.Usage{}, 4)
			long.end(later, execution.Usage{}, lent)
			if got := b.see(ann, later.Add(time.Second)).tenant.Leases1H; got != 4 {
				t.Errorf("%d leases are counted, want those 4 of the last hour", got)
			}
		})
	}
}

func TestBudgetsRemember(t *testing.T) {
	b := newBudgets()
	now := time.Now()
	who := &execution.Principal{Tenant: "acme", Subject: "ann"}
	decided := &execution.Decided{Decision: execution.Decision{Effect: execution.EffectAllow}}
	for _, r := range []execution.Record{
		{Execution: "ex_1", Principal: who, Time: now.Add(-30 * time.Second), Decided: decided},
		{Execution: "ex_1", Principal: who, Time: now.Add(-20 * time.Second), Ended: &execution.Ended{Usage: execution.Usage{CPUMS: 700, EgressBytes: 30}}},
		{Execution: "ex_1", Principal: who, Time: now.Add(-25 * time.Second), Type: execution.RecordLeaseIssued, Lease: &execution.LeaseChange{}},
		{Execution: "ex_1", Principal: who, Time: now.Add(-20 * time.Second), Type: execution.RecordLeaseRevoked, Lease: &execution.LeaseChange{}},
		{Execution: "ex_0", Principal: who, Time: now.Add(-50 * time.Minute), Ended: &execution.Ended{Usage: execution.Usage{CPUMS: 20}}},
		{Execution: "ex_2", Principal: who, Time: now, Decided: &execution.Decided{Decision: execution.Decision{Effect: execution.EffectDeny}}},
		{Principal: who, Time: now, Decided: decided}, // a session
		// The log is read segment by segment, the last one first.
		{Execution: "ex_4", Principal: who, Time: now.Add(-50 * time.Minute), Decided: decided},
		{Execution: "ex_4", Principal: who, Time: now.Add(-49 * time.Minute), Ended: &execution.Ended{Usage: execution.Usage{CPUMS: 1}}},
		{Execution: "ex_5", Principal: who, Time: now.Add(-48 * time.Minute), Decided: decided},
		{Execution: "ex_6", Principal: who, Time: now.Add(2 * time.Hour), Decided: decided}, // by a clock that was ahead
		{Execution: "ex_3", Time: now, Decided: decided},
	} {
		b.recall(r, now)
	}
	want := execution.Counters{Executions1M: 2, CPUMS1H: 721, EgressBytes1H: 30, Leases1H: 1}
	if got := b.see(who.Owner(), now); got.tenant != want || got.principal != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
