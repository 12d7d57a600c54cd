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
// be stopped: a pattern of some 600 states over 40,000 letters. Under the race detector,
// which makes it some twenty times as slow, an eighth of them do.
func deaf() policy.Bundle {
	doublings := 12
	if underRace {
		doublings = 9
	}
	var text strings.Builder
	text.WriteString("package execgate\n\ntext0 := \"xxxxxxxxxx\"\n\n")
	for i := range doublings {
		fmt.Fprintf(&text, "text%d := concat(\"\", [text%d, text%d])\n\n", i+1, i, i)
	}
	fmt.Fprintf(&text, `decision := {"effect": "allow"} if regex.match("^(?:x*y?){300}z", text%d)`, doublings)
	return rego(text.String())
}

// The caller is answered on time although the evaluator is still at work. A machine that
// holds the caller up once does not do it ten times.
func TestRunawayIsAnsweredOnTime(t *testing.T) {
	for name, bundle := range map[string]policy.Bundle{"steps": endless(), "one builtin": deaf()} {
		t.Run(name, func(t *testing.T) {
			var answered []string
			for range 10 {
				engine := newEngine(t, policy.Config{Deadline: 20 * time.Millisecond}, bundle)
				start := time.Now()
				d := engine.Decide(context.Background(), question())
				took := time.Since(start)
				// Where the caller was held up for as long as the policy takes, there is its answer.
				if len(d.Reasons) == 1 && d.Reasons[0].Code == execution.CodePolicyTimeout && took <= time.Second {
					wantDenied(t, d, execution.CodePolicyTimeout)
					return
				}
				answered = append(answered, fmt.Sprintf("%+v after %v", d.Reasons, took))
			}
			t.Errorf("answered %q", answered)
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
	for {
		if time.Now().After(deadline) {
			t.Fatal("the engine stays ready")
		}
		var wg sync.WaitGroup
		for range 3 { // one more than may be abandoned; each costs seconds under -race
			wg.Go(func() { engine.Decide(ctx, question()) })
		}
		wg.Wait()
		if engine.Ready(ctx) == nil {
			continue
		}
		// Where they have ended meanwhile, and this is held up for as long as they take, there is an answer.
		if d := engine.Decide(ctx, question()); len(d.Reasons) == 1 && d.Reasons[0].Code == execution.CodePolicyTimeout {
			wantDenied(t, d, execution.CodePolicyTimeout)
			break
		}
	}
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
