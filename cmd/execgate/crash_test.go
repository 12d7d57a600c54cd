package main

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// endsOf returns the outcomes that the log gives for each execution that was
// allowed; there must be one for each.
func (g *gatewayUnderTest) endsOf() map[string][]execution.Outcome {
	g.t.Helper()
	ends := map[string][]execution.Outcome{}
	for _, r := range g.records() {
		switch {
		case r.Decided != nil && r.Decided.Decision.Allowed():
			ends[r.Execution] = nil
		case r.Ended != nil:
			ends[r.Execution] = append(ends[r.Execution], r.Ended.Outcome)
		}
	}
	return ends
}

// kill -9 with ten executions under way: the next start leaves no container,
// and an end in the log for each.
func TestKilledWithWorkUnderWay(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	before := g.execute(python("print(1)")).ok(t).ID
	var callers sync.WaitGroup
	for range 10 {
		callers.Go(func() { g.try(http.MethodPost, "/v1/executions", sleeps) })
	}
	g.waitContainers(10)
	g.kill()
	callers.Wait()

	g.startAgain()
	ends := g.endsOf()
	if len(ends) != 11 {
		t.Errorf("%d executions are in the log", len(ends))
	}
	for id, outcomes := range ends {
		want := execution.OutcomeUnknownCrash
		if id == before {
			want = execution.OutcomeExited
		}
		if len(outcomes) != 1 || outcomes[0] != want {
			t.Errorf("%s ended %v, want %s", id, outcomes, want)
		}
	}
	g.execute(python("print(1)")).ok(t)
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
}

// kill -9 at any point, also while it starts: what was acknowledged stays, what
// was open is ended once, nothing is left.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), nil)
	acknowledged := map[string]uint64{} // execution to the number of its end
	var mu sync.Mutex
	for round := range 7 {
		g.start()
		if round%3 != 2 { // else it may be killed before it is ready
			g.waitReady()
			e := g.execute(python("print(1)")).ok(t) // however slow the machine is, there is one
			acknowledged[e.ID] = e.Records[1]
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					r, err := g.try(http.MethodPost, "/v1/executions", python("print(1)"))
					if err != nil || r.status != http.StatusOK {
						return
					}
					e := r.ok(t)
					mu.Lock()
					acknowledged[e.ID] = e.Records[1]
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(rand.Int64N(int64(1500 * time.Millisecond)))) // the random point
		g.kill()
		callers.Wait()
	}
	g.start()
	g.waitReady()
	g.waitNothingLeft() // what was on its way to the engine may come later
	for id, outcomes := range g.endsOf() {
		if len(outcomes) != 1 {
			t.Errorf("%s ended %v", id, outcomes)
		}
	}
	lost := maps.Clone(acknowledged)
	for _, r := range g.records() {
		if r.Ended != nil && lost[r.Execution] == r.Seq {
			delete(lost, r.Execution)
		}
	}
	if len(lost) > 0 || len(acknowledged) == 0 {
		t.Errorf("of %d acknowledged executions these are not in the log: %v", len(acknowledged), lost)
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
	t.Logf("%d executions were acknowledged", len(acknowledged))
}

// Two gateways on one engine leave each other's containers alone.
func TestTwoGatewaysOnOneEngine(t *testing.T) {
	t.Parallel()
	a, b := startGateway(t, nil), startGateway(t, nil)
	hangUpB := b.begin(sleeps)
	a.begin(sleeps)
	ofA, ofB := a.waitContainers(1)[0].ID, b.waitContainers(1)[0].ID

	a.kill()
	a.startAgain()
	if left := b.waitContainers(1); len(left) != 1 || left[0].ID != ofB || ofA == ofB {
		t.Errorf("the other gateway's containers are %v", left)
	}

	hangUpA := a.begin(sleeps)
	ofA = a.waitContainers(1)[0].ID
	if code := stopWith(b, hangUpB); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b.startAgain()
	if left := a.waitContainers(1); len(left) != 1 || left[0].ID != ofA {
		t.Errorf("the other gateway's containers are %v", left)
	}
	stopWith(a, hangUpA)
	stopWith(b, func() {})
	a.verify()
	b.verify()
}

// stopWith lets the caller go and stops the gateway.
func stopWith(g *gatewayUnderTest, hangUp func()) int {
	g.t.Helper()
	hangUp()
	return g.stop()
}
