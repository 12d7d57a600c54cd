package policy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// endless is a policy of many small steps, between which it can be stopped.
func endless() policy.Bundle {
	digits := "digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n"
	return rego("package execgate\n\n" + digits + `decision := {"effect": "allow"} if {
	some a in digits
	some b in digits
	some c in digits
	some d in digits
	some e in digits
	some f in digits
	some g in digits
	some h in digits
	some i in digits
	a + b + c + d + e + f + g + h + i == input.v + 100
}`)
}

// deaf is a policy whose one builtin is at work for a quarter of a second and cannot
// be stopped: a pattern of some 600 states over 40,000 letters.
func deaf() policy.Bundle {
	var text strings.Builder
	text.WriteString("package execgate\n\ntext0 := \"xxxxxxxxxx\"\n\n")
	for i := range 12 {
		fmt.Fprintf(&text, "text%d := concat(\"\", [text%d, text%d])\n\n", i+1, i, i)
	}
	text.WriteString(`decision := {"effect": "allow"} if regex.match("^(?:x*y?){300}z", text12)`)
	return rego(text.String())
}

// The caller is answered on time although the evaluator is still at work. A machine that
// holds the caller up once does not do it ten times.
func TestRunawayIsAnsweredOnTime(t *testing.T) {
	for name, bundle := range map[string]policy.Bundle{"steps": endless(), "one builtin": deaf()} {
		t.Run(name, func(t *testing.T) {
			var took []time.Duration
			for range 10 {
				engine := newEngine(t, policy.Config{Deadline: 20 * time.Millisecond}, bundle)
				start := time.Now()
				d := engine.Decide(context.Background(), question())
				took = append(took, time.Since(start))
				wantDenied(t, d, execution.CodePolicyTimeout)
				if took[len(took)-1] <= time.Second {
					return
				}
			}
			t.Errorf("answered after %v", took)
		})
	}
}

// Evaluations that do not return are bounded in number. Past the bound every
// question is denied at once and the engine is not ready; it recovers when they
// end.
func TestAbandonedEvaluationsAreBounded(t *testing.T) {
	engine := newEngine(t, policy.Config{Deadline: 50 * time.Millisecond, MaxAbandoned: 2}, deaf())
	ctx := context.Background()
	deadline := time.Now().Add(5 * time.Minute)
	for engine.Ready(ctx) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the engine stays ready")
		}
		var wg sync.WaitGroup
		for range 3 { // one more than may be abandoned; each costs seconds under -race
			wg.Go(func() { engine.Decide(ctx, question()) })
		}
		wg.Wait()
	}
	d := engine.Decide(ctx, question())
	wantDenied(t, d, execution.CodePolicyTimeout)
	if err := engine.Ready(ctx); err != nil && !strings.Contains(err.Error(), "do not return") {
		t.Errorf("not ready for another reason: %v", err)
	}

	if _, err := engine.Activate(ctx, allowing(nil)); err != nil {
		t.Fatal(err)
	}
	late := time.After(5 * time.Minute) // they take long under -race beside other tests
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !engine.Decide(ctx, question()).Allowed() {
		select {
		case <-look.C: // the evaluations end by themselves
		case <-late:
			t.Fatal("the engine does not recover")
		}
	}
	if err := engine.Ready(ctx); err != nil {
		t.Error(err)
	}
}
