package policy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

// The test's own program is the worker where it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "worker" {
		os.Exit(m.Run())
	}
	mib, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err == nil {
		err = policy.ServeWorker(os.Stdin, os.Stdout, mib)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newRemote(t testing.TB, config policy.RemoteConfig) *policy.Remote {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config.Command = []string{program, "worker"}
	remote, err := policy.NewRemote(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.Close)
	return remote
}

// apart is an engine with the shipped policy whose tenants' policies are in
// worker processes.
func apart(t testing.TB, config policy.RemoteConfig, tenants map[string]policy.Bundle) *policy.Engine {
	t.Helper()
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: newRemote(t, config)}, shipped())
	for tenant, bundle := range tenants {
		if _, err := engine.ActivateTenant(context.Background(), tenant, bundle); err != nil {
			t.Fatal(err)
		}
	}
	return engine
}

// What a worker answers is what the same policy answers in this process.
func TestWorkersAnswerTheSame(t *testing.T) {
	for name, bundle := range map[string]policy.Bundle{
		"allow":     answer(`{"effect": "allow", "limits": {"memory_mib": 100}}`),
		"deny":      answer(`{"effect": "deny", "reasons": [{"code": "a", "message": "<m>", "rule": "r", "remediation": "é"}]}`),
		"nonsense":  answer(`{"effect": "allow", "limits": {"memory_mib": 1.5}}`),
		"undefined": rego("package execgate\n\ndecision := {\"effect\": \"allow\"} if input.principal.tenant == \"other\""),
		"error":     rego("package execgate\n\ndecision := {\"effect\": \"allow\"} if to_number(input.principal.tenant) == 1"),
		"mode":      ruled("warn", ""),
		"shipped":   shipped(),
	} {
		t.Run(name, func(t *testing.T) {
			here := layered(t, &workers{}, nil)
			if name == "mode" { // which the stand-in does not know of
				here = apart(t, policy.RemoteConfig{Deadline: 30 * time.Second}, nil)
			}
			if _, err := here.ActivateTenant(context.Background(), "default", bundle); err != nil {
				t.Fatal(err)
			}
			there := apart(t, policy.RemoteConfig{Deadline: 30 * time.Second}, map[string]policy.Bundle{"default": bundle})
			want, got := here.Decide(context.Background(), question()), there.Decide(context.Background(), question())
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("differs (-here +there):\n%s", diff)
			}
			if name == "mode" && len(got.Warnings) != 1 {
				t.Errorf("warnings are %+v", got.Warnings)
			}
		})
	}
}

func TestTenantBundleThatIsBroken(t *testing.T) {
	engine := apart(t, policy.RemoteConfig{}, map[string]policy.Bundle{"default": answer(`{"effect": "deny"}`)})
	for name, test := range map[string]struct {
		bundle policy.Bundle
		says   string
	}{
		"syntax":    {rego("package execgate\n\ndecision := {"), "p.rego:3"},
		"builtin":   {rego("package execgate\n\ndecision := http.send({})"), "http.send"},
		"no answer": {rego("package other\n\nx := 1"), "no rule defines"},
		"no folder": {policy.Bundle{}, "no folder"},
	} {
		_, err := engine.ActivateTenant(context.Background(), "default", test.bundle)
		if broken, ok := errors.AsType[*policy.BundleError](err); !ok || !strings.Contains(broken.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantDenied(t, engine.Decide(context.Background(), question()), "denied") // the last good one
}

// runaways are policies that compile, and do not end or eat all memory: doublings
// of a string or of an array, each step as long as all before it.
func runaways() map[string]policy.Bundle {
	var text, list strings.Builder
	text.WriteString("package execgate\n\na0 := input.action.code.sha256\n")
	list.WriteString("package execgate\n\na0 := [input.action.code.bytes | some i in [1, 2, 3, 4, 5, 6, 7, 8]]\n")
	for i := range 40 {
		fmt.Fprintf(&text, "a%d := concat(\"\", [a%d, a%d])\n", i+1, i, i)
		fmt.Fprintf(&list, "a%d := array.concat(a%d, a%d)\n", i+1, i, i)
	}
	text.WriteString("decision := {\"effect\": \"allow\"} if count(a40) > 0\n")
	list.WriteString("decision := {\"effect\": \"allow\"} if count(a40) > 0\n")
	return map[string]policy.Bundle{"text": rego(text.String()), "list": rego(list.String()), "endless": endless()}
}

// A policy that runs away, in time or in memory, is denied in time, and the
// other tenants do not notice.
func TestRunawayOfATenant(t *testing.T) {
	const deadline = 300 * time.Millisecond // the race detector is slow
	for name, runaway := range runaways() {
		t.Run(name, func(t *testing.T) {
			engine := apart(t, policy.RemoteConfig{Deadline: deadline, Workers: 2, MemoryMiB: 256}, map[string]policy.Bundle{
				"default": answer(`{"effect": "allow"}`), "research": runaway,
			})
			good, bad := question(), question()
			bad.Principal.Tenant = "research"
			if d := engine.Decide(context.Background(), good); !d.Allowed() {
				t.Fatalf("denied: %+v", d.Reasons)
			}

			stop, cancel := context.WithCancel(context.Background())
			var flood sync.WaitGroup
			began := make(chan struct{}, 1)
			for range 4 {
				flood.Go(func() {
					for stop.Err() == nil {
						begin := time.Now()
						d := engine.Decide(context.Background(), bad)
						took := time.Since(begin)
						code := d.Reasons[0].Code
						if d.Allowed() || code != execution.CodePolicyTimeout && code != execution.CodePolicyError || took > 20*time.Second {
							t.Errorf("after %v: %+v", took, d)
						}
						select {
						case began <- struct{}{}:
						default:
						}
					}
				})
			}
			<-began
			var took []time.Duration
			for range 20 {
				begin := time.Now()
				d := engine.Decide(context.Background(), good)
				if !d.Allowed() {
					t.Errorf("a tenant that does no harm is denied: %+v", d.Reasons)
				}
				took = append(took, time.Since(begin))
			}
			cancel()
			flood.Wait()
			slices.Sort(took)
			if median := took[len(took)/2]; median > deadline {
				t.Errorf("a tenant that does no harm waits for %v", median)
			}
		})
	}
}

func TestExplainTenant(t *testing.T) {
	engine := apart(t, policy.RemoteConfig{Deadline: 30 * time.Second}, map[string]policy.Bundle{"default": rego(
		"package execgate\n\ndecision := {\"effect\": \"allow\"} if unmistakable\n\nunmistakable if input.v == 1")})
	trace := engine.Explain(context.Background(), question(), true).Trace
	if !strings.Contains(trace, "the tenant's policy") || !strings.Contains(trace, "unmistakable") {
		t.Errorf("the trace lacks the tenant's part: %.300s", trace)
	}
}

// More bundles than a worker holds are all answered for.
func TestManyTenantsShareWorkers(t *testing.T) {
	tenants := map[string]policy.Bundle{}
	for i := range 70 {
		tenants[fmt.Sprintf("t%d", i)] = answer(fmt.Sprintf(`{"effect": "deny", "reasons": [{"code": "c%d"}]}`, i))
	}
	allowAll := allowing(nil)
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: newRemote(t, policy.RemoteConfig{Deadline: 30 * time.Second, Workers: 2})}, allowAll)
	for tenant, bundle := range tenants {
		if _, err := engine.ActivateTenant(context.Background(), tenant, bundle); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for tenant := range tenants {
			q := question()
			q.Principal.Tenant = tenant
			if d := engine.Decide(context.Background(), q); d.Allowed() || d.Reasons[0].Code != "c"+tenant[1:] {
				t.Errorf("%s: %+v", tenant, d)
			}
		}
	}
}

func TestRemoteTests(t *testing.T) {
	remote := newRemote(t, policy.RemoteConfig{})
	report, err := remote.Test(context.Background(), shipped())
	if err != nil || !report.Passed() || report.Coverage != 100 {
		t.Errorf("%v: %+v", err, report)
	}
	if _, err := remote.Test(context.Background(), rego("package")); err == nil {
		t.Error("a bundle that is broken is tested")
	}
}

func BenchmarkTenant(b *testing.B) {
	engine := apart(b, policy.RemoteConfig{Deadline: time.Minute}, map[string]policy.Bundle{"default": answer(`{"effect": "allow"}`)})
	q := question()
	benchmark(b, func() bool { return engine.Decide(context.Background(), q).Allowed() }, true)
}
