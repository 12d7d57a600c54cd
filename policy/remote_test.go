package policy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// newRemote has all the time it needs where config does not say otherwise: -race and a
// busy machine must not turn an answer into a timeout.
func newRemote(t testing.TB, config policy.RemoteConfig) *policy.Remote {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config.Command = []string{program, "worker"}
	if config.Prepare = time.Minute; config.Deadline == 0 {
		config.Deadline = time.Minute
	}
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
	engine := newEngine(t, policy.Config{Deadline: time.Minute, Workers: newRemote(t, config)}, shipped())
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
				here = apart(t, policy.RemoteConfig{}, nil)
			}
			if _, err := here.ActivateTenant(context.Background(), "default", bundle); err != nil {
				t.Fatal(err)
			}
			there := apart(t, policy.RemoteConfig{}, map[string]policy.Bundle{"default": bundle})
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

// A policy that runs away, in time or in memory, is denied in time.
func TestRunawayOfATenantIsDenied(t *testing.T) {
	for name, runaway := range runaways() {
		t.Run(name, func(t *testing.T) {
			engine := apart(t, policy.RemoteConfig{Deadline: 300 * time.Millisecond, Workers: 2, MemoryMiB: 256}, map[string]policy.Bundle{"default": runaway})
			begin := time.Now()
			d := engine.Decide(context.Background(), question())
			wantRunaway(t, d)
			if took := time.Since(begin); took > 5*time.Minute { // without a bound it would take for ever
				t.Errorf("after %v: %+v", took, d)
			}
		})
	}
}

// askedFor are workers that say when they are first asked for a tenant.
type askedFor struct {
	*policy.Remote
	tenant string
	say    sync.Once
	once   chan struct{}
}

func (a *askedFor) Evaluate(ctx context.Context, tenant, revision string, input []byte, full bool) (policy.Answer, error) {
	if tenant == a.tenant {
		a.say.Do(func() { close(a.once) })
	}
	return a.Remote.Evaluate(ctx, tenant, revision, input, full)
}

func wantRunaway(t *testing.T, d execution.Decision) {
	t.Helper()
	if code := d.Reasons[0].Code; d.Allowed() || code != execution.CodePolicyTimeout && code != execution.CodePolicyError {
		t.Errorf("a policy that runs away: %+v", d)
	}
}

// Of a policy that runs away, in time or in memory, the other tenants notice nothing:
// they are answered beside it, and not after it.
func TestRunawayOfATenantHoldsNobodyUp(t *testing.T) {
	for name, runaway := range runaways() {
		t.Run(name, func(t *testing.T) {
			// What takes all the time it may is at work for as long as this test.
			asked := &askedFor{Remote: newRemote(t, policy.RemoteConfig{Deadline: 10 * time.Minute, Workers: 2, MemoryMiB: 256}), tenant: "research", once: make(chan struct{})}
			engine := newEngine(t, policy.Config{Deadline: time.Minute, Workers: asked}, shipped())
			for tenant, bundle := range map[string]policy.Bundle{"default": answer(`{"effect": "allow"}`), "research": runaway} {
				if _, err := engine.ActivateTenant(t.Context(), tenant, bundle); err != nil {
					t.Fatal(err)
				}
			}
			good, bad := question(), question()
			bad.Principal.Tenant = "research"
			stop, cancel := context.WithCancel(context.Background())
			defer cancel()
			var flood sync.WaitGroup
			for range 4 {
				flood.Go(func() {
					for stop.Err() == nil {
						wantRunaway(t, engine.Decide(stop, bad))
					}
				})
			}
			<-asked.once
			for range 20 {
				if d := engine.Decide(context.Background(), good); !d.Allowed() {
					t.Errorf("a tenant that does no harm is denied: %+v", d.Reasons)
				}
			}
			cancel()
			flood.Wait()
		})
	}
}

func TestExplainTenant(t *testing.T) {
	engine := apart(t, policy.RemoteConfig{}, map[string]policy.Bundle{"default": rego(
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
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: newRemote(t, policy.RemoteConfig{Workers: 2})}, allowAll)
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

// A worker that has died, be it of what other tenants had it load or of a host without
// memory, costs nobody an answer.
func TestWorkerThatDied(t *testing.T) {
	remote := newRemote(t, policy.RemoteConfig{Deadline: 30 * time.Second, Workers: 2})
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: remote}, allowing(nil))
	q := question()
	q.Principal.Tenant = "a"
	if _, err := engine.ActivateTenant(t.Context(), "a", answer(`{"effect": "deny", "reasons": [{"code": "own"}]}`)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if d := engine.Decide(t.Context(), q); d.Allowed() || d.Reasons[0].Code != "own" {
			t.Fatalf("%+v", d)
		}
		killWorkers(t)
	}
}

// killWorkers kills the workers of this process, whoever else has some.
func killWorkers(t *testing.T) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("the children of this process are not known: %v", err)
	}
	killed := 0
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(children)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if !strings.Contains(string(line), "\x00worker\x00") {
				continue
			}
			number, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(number, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("there is no worker")
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
	engine := apart(b, policy.RemoteConfig{}, map[string]policy.Bundle{"default": answer(`{"effect": "allow"}`)})
	q := question()
	benchmark(b, func() bool { return engine.Decide(context.Background(), q).Allowed() }, true)
}
