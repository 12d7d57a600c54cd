package policy_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A decision costs what bench/baseline says, where that does not depend on what
// else the machine does: a change of more than 3 % is to be seen and meant, then
// scripts/baseline renews it. Under the race detector, which makes the evaluator's
// pools forget at random, allocations are not counted; scripts/test runs this without.
func TestCostOfADecision(t *testing.T) {
	for name, q := range map[string]execution.Question{"Allow": toAllow(), "Deny": toDeny()} {
		for _, tenants := range []int{3, 100} {
			benchmark := fmt.Sprintf("Benchmark%s/tenants=%d", name, tenants)
			t.Run(benchmark, func(t *testing.T) {
				engine := newEngine(t, unhurried, bundleOf(t, tenants))
				if name == "Allow" && tenants > 3 {
					q.Principal.Tenant = fmt.Sprintf("tenant-%d", tenants/2)
				}
				holds(t, benchmark, "steps/op", float64(steps(engine, q)))
				if !underRace {
					holds(t, benchmark, "allocs/op", testing.AllocsPerRun(500, func() { engine.Decide(context.Background(), q) }))
				}
			})
		}
	}
}

func holds(t *testing.T, benchmark, unit string, got float64) {
	t.Helper()
	want := baseline(t, benchmark, unit)
	if got > want*1.03 || got < want*0.97 {
		t.Errorf("%v %s, and bench/baseline has %v: where that is meant, run scripts/baseline", got, unit, want)
	}
}

// baseline is the middle one of the values that were stored for a benchmark.
func baseline(t *testing.T, benchmark, unit string) float64 {
	t.Helper()
	text, err := os.ReadFile("../bench/baseline/policy.txt")
	if err != nil {
		t.Fatal(err)
	}
	var values []float64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != benchmark {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 { // after the name and the number of runs: a value, its unit
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil && fields[i+1] == unit {
				values = append(values, value)
			}
		}
	}
	if len(values) == 0 {
		t.Fatalf("bench/baseline/policy.txt has no %s of %s: run scripts/baseline", unit, benchmark)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
