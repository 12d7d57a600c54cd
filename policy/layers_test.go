package policy_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

// workers evaluate in the test's own process: what a layer may do is shown here,
// that it cannot harm the others is shown with real processes.
type workers struct {
	bundles map[string]policy.Bundle
	holders map[string]int
	asked   int
	answer  func(policy.Answer) (policy.Answer, error) // nil: as evaluated
}

func (w *workers) Load(ctx context.Context, bundle policy.Bundle) (string, error) {
	result, err := policy.Eval(ctx, bundle, nil, []byte(`{}`))
	if err != nil {
		return "", err
	}
	if w.bundles == nil {
		w.bundles, w.holders = make(map[string]policy.Bundle), map[string]int{}
	}
	w.bundles[result.Revision] = bundle
	w.holders[result.Revision]++
	return result.Revision, nil
}

func (w *workers) Evaluate(ctx context.Context, _, revision string, input []byte, _ bool) (policy.Answer, error) {
	w.asked++
	bundle, ok := w.bundles[revision]
	if !ok {
		return policy.Answer{}, errors.New("no such bundle")
	}
	result, err := policy.Eval(ctx, bundle, nil, input)
	if err != nil {
		return policy.Answer{}, err
	}
	answer := policy.Answer{Document: result.Document}
	if result.Document == nil {
		answer = policy.Answer{Failure: &result.Decision.Reasons[0], Cause: result.Cause}
	}
	if w.answer != nil {
		return w.answer(answer)
	}
	return answer, nil
}

func (w *workers) Forget(revision string) {
	if w.holders[revision]--; w.holders[revision] == 0 {
		delete(w.bundles, revision)
	}
}

// layered is an engine with the shipped policy and one of the tenant's own.
func layered(t *testing.T, w *workers, tenants map[string]policy.Bundle) *policy.Engine {
	t.Helper()
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: w}, shipped())
	for tenant, bundle := range tenants {
		if _, err := engine.ActivateTenant(context.Background(), tenant, bundle); err != nil {
			t.Fatal(err)
		}
	}
	return engine
}

func TestTenantNarrows(t *testing.T) {
	asked := question()
	asked.Request.Limits = execution.Limits{MemoryMiB: 512}
	for name, test := range map[string]struct {
		own   string
		codes []string // nil: allowed
		check func(*testing.T, execution.Decision)
	}{
		"nothing": {own: `{"effect": "allow"}`, check: func(t *testing.T, d execution.Decision) {
			if d.Grant.Limits.MemoryMiB != 512 || len(d.Clamped) != 0 {
				t.Errorf("granted %+v", d.Grant.Limits)
			}
		}},
		"a limit": {own: `{"effect": "allow", "limits": {"memory_mib": 100}}`, check: func(t *testing.T, d execution.Decision) {
			if want := []execution.Clamp{{Limit: "memory_mib", Requested: 512, Granted: 100}}; !slices.Equal(d.Clamped, want) {
				t.Errorf("clamped is %+v", d.Clamped)
			}
		}},
		"more than there is": {own: `{"effect": "allow", "limits": {"memory_mib": 100000, "timeout_ms": 99999999}}`, check: func(t *testing.T, d execution.Decision) {
			if d.Grant.Limits.MemoryMiB != 512 || d.Grant.Limits.TimeoutMS != 30_000 {
				t.Errorf("granted %+v", d.Grant.Limits)
			}
		}},
		"more denies":     {own: `{"effect": "allow", "limits": {"memory_mib": 100}, "on_exceed": {"memory_mib": "deny"}}`, codes: []string{"limit_exceeded"}},
		"no image":        {own: `{"effect": "allow", "image": {"digests": []}}`, codes: []string{"image_not_granted"}},
		"another runtime": {own: `{"effect": "allow", "runtime": "runsc"}`, codes: []string{"runtime_not_granted"}},
		"a denial":        {own: `{"effect": "deny", "reasons": [{"code": "ours", "rule": "t.r", "message": "m", "remediation": "f"}]}`, codes: []string{"ours"}},
		"an unknown must": {own: `{"effect": "allow", "obligations": [{"type": "sing"}]}`, codes: []string{execution.CodePolicyUnsupported}},
		"nonsense":        {own: `{"effect": "allow", "limit": {}}`, codes: []string{execution.CodePolicyInvalid}},
		"zero":            {own: `{"effect": "allow", "limits": {"memory_mib": 0}}`, codes: []string{execution.CodePolicyInvalid}},
		"no session": {own: `{"effect": "allow", "session": null}`, check: func(t *testing.T, d execution.Decision) {
			if d.Grant.Session != (execution.SessionGrant{}) {
				t.Errorf("granted %+v", d.Grant.Session)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			engine := layered(t, &workers{}, map[string]policy.Bundle{"default": answer(test.own)})
			d := engine.Decide(context.Background(), asked)
			if want := []execution.Layer{{Name: execution.LayerTenant, Revision: engine.TenantRevision("default")}}; !slices.Equal(d.Layers, want) {
				t.Errorf("layers are %+v, want %+v", d.Layers, want)
			}
			if d.Revision != engine.Revision() {
				t.Errorf("revision is %s, want the organisation's", d.Revision)
			}
			if test.codes != nil {
				wantDenied(t, d, test.codes...)
				return
			}
			if !d.Allowed() {
				t.Fatalf("denied: %+v", d.Reasons)
			}
			test.check(t, d)
		})
	}
}

// What the organisation's policy alone would be denied for, a tenant's does not mend: it
// neither fills in what is left out nor takes away what is wrong.
func TestTenantDoesNotMendTheOrganisations(t *testing.T) {
	const limits = `{"timeout_ms": 60000, "memory_mib": 4096, "cpu_millis": 4000, "cpu_shares": 1024, "pids": 512,
		"nofile": 1024, "tmp_mib": 64, "workspace_mib": 64, "shm_mib": 64, "output_kib": 1024, "result_kib": 1024,
		"files_mib": 64, "files_count": 64}`
	forward := strings.Replace(forwardRule, "5432", "0, 5432", 1)
	for name, test := range map[string]struct {
		organisation map[string]string
		own          string
		code         string
	}{
		"limits that are left out": {map[string]string{"limits": `{"memory_mib": 64}`}, `{"effect": "allow", "limits": ` + limits + `}`, execution.CodePolicyInvalid},
		"a budget that is left out": {
			map[string]string{"network": `{"rules": [` + forwardRule + `]}`},
			`{"effect": "allow", "network": ` + network(forwardRule) + `}`, execution.CodePolicyInvalid,
		},
		"a port that is none": {
			map[string]string{"network": network(forward)},
			`{"effect": "allow", "network": ` + network(forwardRule) + `}`, execution.CodePolicyInvalid,
		},
		"a credential that cannot be lent": {
			map[string]string{"credentials": `[{"tool": "github", "inject": "egress"}]`},
			`{"effect": "allow", "credentials": []}`, execution.CodePolicyInvalid,
		},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: &workers{}}, allowing(test.organisation))
			wantDenied(t, engine.Decide(t.Context(), question()), test.code)
			if _, err := engine.ActivateTenant(t.Context(), "default", answer(test.own)); err != nil {
				t.Fatal(err)
			}
			wantDenied(t, engine.Decide(t.Context(), question()), test.code)
		})
	}
}

// A tenant's policy is about its own tenant, and is not asked about what is
// denied already.
func TestTenantsAreApart(t *testing.T) {
	w := &workers{}
	engine := layered(t, w, map[string]policy.Bundle{"research": answer(`{"effect": "deny"}`), "ci": answer(`{"effect": "deny"}`)})
	if d := engine.Decide(context.Background(), question()); !d.Allowed() || d.Layers != nil || w.asked != 0 {
		t.Fatalf("another tenant's policy took part: %+v", d)
	}
	q := question()
	q.Principal.Tenant = "research"
	wantDenied(t, engine.Decide(context.Background(), q), "denied")
	q.Image.Name = "ubuntu"
	wantDenied(t, engine.Decide(context.Background(), q), "image_not_granted")
	if w.asked != 1 {
		t.Errorf("the tenant's policy was asked %d times, want once", w.asked)
	}
	engine.DropTenant("research")
	q.Image.Name = "python"
	if d := engine.Decide(context.Background(), q); !d.Allowed() {
		t.Errorf("a dropped policy is still there: %+v", d.Reasons)
	}
	q.Principal.Tenant = "ci"
	wantDenied(t, engine.Decide(context.Background(), q), "denied") // it has the same bundle
	engine.DropTenant("ci")
	if len(w.bundles) != 0 {
		t.Errorf("the workers hold %d bundles of nobody's", len(w.bundles))
	}
}

// A tenant's data is what its bundle holds, and no more.
func TestTenantSeesItsOwnData(t *testing.T) {
	engine := layered(t, &workers{}, map[string]policy.Bundle{"default": rego(`package execgate

decision := {"effect": "allow"} if not data.tenants

decision := {"effect": "deny"} if data.tenants`)})
	if d := engine.Decide(context.Background(), question()); !d.Allowed() {
		t.Errorf("a tenant's policy reads the organisation's data: %+v", d.Reasons)
	}
}

// What a worker says is believed as little as what a policy says.
func TestWorkerThatLies(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(policy.Answer) (policy.Answer, error)
		code   string
	}{
		"nothing": {func(policy.Answer) (policy.Answer, error) { return policy.Answer{}, nil }, execution.CodePolicyInvalid},
		"no JSON": {func(policy.Answer) (policy.Answer, error) { return policy.Answer{Document: []byte(`{`)}, nil }, execution.CodePolicyInvalid},
		"two keys": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"deny","effect":"allow"}`)}, nil
		}, execution.CodePolicyInvalid},
		"nesting without end": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"allow","advice":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`)}, nil
		}, execution.CodePolicyInvalid},
		"a number that is too large": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"allow","limits":{"memory_mib":1e999999999}}`)}, nil
		}, execution.CodePolicyInvalid},
		"a key in another case": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"Effect":"allow"}`)}, nil
		}, execution.CodePolicyInvalid},
		"more than a decision takes": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"allow","advice":[{"type":"a","list":[` + strings.Repeat("[],", 100_000) + `[]]}]}`)}, nil
		}, execution.CodePolicyInvalid},
		"two documents": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"deny"} {"effect":"allow"}`)}, nil
		}, execution.CodePolicyInvalid},
		"an error": {func(policy.Answer) (policy.Answer, error) { return policy.Answer{}, errors.New("it died") }, execution.CodePolicyError},
		"a deny of no reason, lifted": {func(policy.Answer) (policy.Answer, error) {
			return policy.Answer{Document: []byte(`{"effect":"deny"}`), Modes: map[string]string{"": "warn"}}, nil
		}, "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			engine := layered(t, &workers{answer: test.answer}, map[string]policy.Bundle{"default": answer(`{"effect": "allow"}`)})
			wantDenied(t, engine.Decide(context.Background(), question()), test.code)
		})
	}
}

func TestCeilings(t *testing.T) {
	with := func(change func(*execution.Question)) execution.Question {
		q := question()
		change(&q)
		return q
	}
	session := with(func(q *execution.Question) { q.Action, q.Request.Code = execution.ActionSession, "" })
	for name, test := range map[string]struct {
		ceiling policy.Ceiling
		q       execution.Question
		codes   []string
	}{
		"image":             {policy.Ceiling{Images: []string{"node"}}, question(), []string{"image_not_granted"}},
		"no image":          {policy.Ceiling{Images: []string{}}, question(), []string{"image_not_granted"}},
		"image that may be": {policy.Ceiling{Images: []string{"python"}}, question(), nil},
		"runtime":           {policy.Ceiling{Runtimes: []string{"runsc"}}, question(), []string{"runtime_not_granted"}},
		"sessions":          {policy.Ceiling{NoSessions: true}, session, []string{"session_not_granted"}},
		"none":              {policy.Ceiling{}, session, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, ceilings := range []policy.Ceilings{
				{Ceiling: test.ceiling},
				{Tenants: map[string]policy.Ceiling{"default": test.ceiling}},
			} {
				engine := layered(t, &workers{}, nil)
				if err := engine.SetCeilings(ceilings); err != nil {
					t.Fatal(err)
				}
				d := engine.Decide(context.Background(), test.q)
				if len(d.Layers) != 1 || d.Layers[0].Name != execution.LayerCeilings || !strings.HasPrefix(d.Layers[0].Revision, "sha256:") {
					t.Errorf("layers are %+v", d.Layers)
				}
				if test.codes == nil {
					if !d.Allowed() {
						t.Errorf("denied: %+v", d.Reasons)
					}
					continue
				}
				wantDenied(t, d, test.codes...)
			}
		})
	}
}

// What the ceilings take away is not granted, whatever policy says.
func TestCeilingsOfNetworkAndCredentials(t *testing.T) {
	granting := allowing(map[string]string{
		"network": network(forwardRule), "credentials": `[` + databaseLease + `]`, "reuse": `"principal"`,
	})
	reached, lent := question(), question()
	reached.Request.Network = []execution.Destination{{Host: "db.example.com", Port: 5432}}
	lent.Request.Tools = []string{"reports-db"}
	for name, test := range map[string]struct {
		ceiling policy.Ceiling
		q       execution.Question
		code    string // empty: allowed
	}{
		"no network":                {policy.Ceiling{NoNetwork: true}, reached, "network_not_granted"},
		"no network, none asked":    {policy.Ceiling{NoNetwork: true}, question(), ""},
		"network":                   {policy.Ceiling{}, reached, ""},
		"no tools":                  {policy.Ceiling{Tools: []string{}}, lent, "tool_not_granted"},
		"other tools":               {policy.Ceiling{Tools: []string{"reports"}}, lent, "tool_not_granted"},
		"this tool":                 {policy.Ceiling{Tools: []string{"reports-db"}}, lent, ""},
		"no reuse":                  {policy.Ceiling{NoReuse: true}, question(), ""},
		"no tools, and none asked":  {policy.Ceiling{Tools: []string{}}, question(), ""},
		"this tool, and no network": {policy.Ceiling{Tools: []string{"reports-db"}, NoNetwork: true}, lent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second}, granting)
			if err := engine.SetCeilings(policy.Ceilings{Ceiling: test.ceiling}); err != nil {
				t.Fatal(err)
			}
			d := engine.Decide(t.Context(), test.q)
			if test.code != "" {
				wantDenied(t, d, test.code)
				return
			}
			if !d.Allowed() {
				t.Fatalf("denied: %+v", d.Reasons)
			}
			if test.ceiling.NoNetwork && len(d.Grant.Network.Rules) > 0 || test.ceiling.NoReuse && d.Grant.Reuse != "" {
				t.Errorf("granted %+v", d.Grant)
			}
		})
	}
}

// A ceiling clamps what policy grants, and adds nothing that policy left out.
func TestCeilingOfALimit(t *testing.T) {
	engine := layered(t, &workers{}, nil)
	if err := engine.SetCeilings(policy.Ceilings{
		Ceiling: policy.Ceiling{Limits: execution.Limits{MemoryMiB: 300, PIDs: 30}},
		Tenants: map[string]policy.Ceiling{"default": {Limits: execution.Limits{MemoryMiB: 200, PIDs: 40}}},
	}); err != nil {
		t.Fatal(err)
	}
	q := question()
	q.Request.Limits.MemoryMiB = 512
	d := engine.Decide(context.Background(), q)
	if want := []execution.Clamp{{Limit: "memory_mib", Requested: 512, Granted: 200}}; !slices.Equal(d.Clamped, want) || d.Grant.Limits.PIDs != 30 {
		t.Errorf("clamped %+v of %+v", d.Clamped, d.Grant.Limits)
	}
	if _, err := engine.Activate(context.Background(), allowing(map[string]string{"limits": `{"memory_mib": 64}`})); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, engine.Decide(context.Background(), question()), execution.CodePolicyInvalid)

	if err := engine.SetCeilings(policy.Ceilings{Tenants: map[string]policy.Ceiling{"a": {Limits: execution.Limits{MemoryMiB: -1}}}}); err == nil {
		t.Error("a ceiling in which nothing runs is taken")
	}
}

// An explanation has the decision that Decide gives, the input that was read and,
// where it is asked for, the steps.
func TestExplain(t *testing.T) {
	engine := layered(t, &workers{}, nil)
	for _, q := range []execution.Question{question(), {}} {
		short, full := engine.Explain(context.Background(), q, false), engine.Explain(context.Background(), q, true)
		if diff := cmp.Diff(engine.Decide(context.Background(), q), full.Decision); diff != "" {
			t.Errorf("the explained decision is another one (-decided +explained):\n%s", diff)
		}
		if short.Trace != "" || !strings.Contains(full.Trace, "data.execgate.decision") {
			t.Errorf("trace is %.200q without and %.200q with full", short.Trace, full.Trace)
		}
		if diff := cmp.Diff(string(short.Input), string(full.Input)); diff != "" || !strings.Contains(string(full.Input), `"principal":{`) {
			t.Errorf("input is %s", full.Input)
		}
	}
}

// A trace is bounded, whatever a policy does.
func TestExplainOfALongEvaluation(t *testing.T) {
	engine := newEngine(t, policy.Config{Deadline: time.Minute}, rego(`package execgate

many := {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"}

decision := {"effect": "deny"} if {
	count([1 | some x in many; some y in many; some z in many; x == y; y == z]) > 0
}`))
	explanation := engine.Explain(context.Background(), question(), true)
	if !explanation.Truncated || len(explanation.Trace) > 1<<20 {
		t.Errorf("truncated is %v of %d bytes", explanation.Truncated, len(explanation.Trace))
	}
	wantDenied(t, explanation.Decision, "denied")
}
