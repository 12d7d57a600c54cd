package policy_test

import (
	"context"
	"testing"
	"testing/fstest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

// question is a request that the shipped policy grants.
func question() execution.Question {
	return execution.Question{
		ID: "ex_01", Time: time.Unix(1_767_225_600, 0), Action: execution.ActionExecute,
		Principal: execution.Principal{
			Subject: "ak_01", Tenant: "default", Roles: []execution.Role{execution.RoleCaller},
			Method: execution.MethodAPIKey,
		},
		Request:       execution.Request{Language: "python", Code: "print(1)"},
		RequestSHA256: "00",
		Image:         execution.Image{Name: "python", Digest: digest},
	}
}

func shipped() policy.Bundle {
	return policy.Bundle{
		Files: policies.Files, Source: "embedded", Images: map[string]string{"python": digest},
	}
}

// rego is a bundle of one file.
func rego(text string) policy.Bundle {
	return policy.Bundle{Files: fstest.MapFS{"p.rego": {Data: []byte(text)}}, Source: "test"}
}

// answer is a bundle that always gives the same decision document.
func answer(document string) policy.Bundle {
	return rego("package execgate\n\ndecision := " + document)
}

func newEngine(t testing.TB, config policy.Config, bundle policy.Bundle) *policy.Engine {
	t.Helper()
	engine, err := policy.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Activate(context.Background(), bundle); err != nil {
		t.Fatal(err)
	}
	return engine
}

// decide asks an engine that has all the time it needs: -race and a busy
// machine must not turn an answer into a timeout.
func decide(t testing.TB, bundle policy.Bundle, q execution.Question) execution.Decision {
	t.Helper()
	return newEngine(t, policy.Config{Deadline: 30 * time.Second}, bundle).Decide(context.Background(), q)
}

// soon wants do to take no longer than most. A machine that holds it up once does not do
// it ten times.
func soon(t *testing.T, most time.Duration, do func()) {
	t.Helper()
	var took []time.Duration
	for range 10 {
		begin := time.Now()
		do()
		if took = append(took, time.Since(begin)); took[len(took)-1] <= most {
			return
		}
	}
	t.Errorf("it took %v", took)
}

func wantDenied(t testing.TB, d execution.Decision, codes ...string) {
	t.Helper()
	got := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		got[i] = r.Code
		if r.Rule == "" || r.Message == "" || r.Remediation == "" {
			t.Errorf("the reason %+v lacks a rule, a message or a remediation", r)
		}
	}
	if d.Allowed() || d.Effect != execution.EffectDeny {
		t.Fatalf("effect is %q: want deny", d.Effect)
	}
	if !equal(got, codes) {
		t.Fatalf("denied with %q, want %q: %+v", got, codes, d.Reasons)
	}
	if d.Grant.Image != "" || d.Grant.Limits != (execution.Limits{}) {
		t.Errorf("a denial grants %+v", d.Grant)
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
