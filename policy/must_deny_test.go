package policy_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

// mustDeny asks a policy the cases in this process.
func mustDeny(t *testing.T, files policy.Files) policy.MustDenyReport {
	t.Helper()
	images := map[string]string{"python": digest}
	report, err := policy.MustDeny(t.Context(), files, images, nil, func(ctx context.Context, input []byte) (policy.Answer, error) {
		e, err := policy.Eval(ctx, policy.Bundle{Files: files, Images: images}, nil, input)
		if err != nil {
			return policy.Answer{}, err
		}
		answer := policy.Answer{Document: e.Document}
		if e.Document == nil {
			answer.Failure = &execution.Reason{Code: "policy_undefined"}
		}
		return answer, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestShippedPolicyDeniesWhatEveryPolicyDenies(t *testing.T) {
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	report := mustDeny(t, files)
	if report.Err() != nil {
		t.Error(report.Err())
	}
	if report.Tenant != "default" {
		t.Errorf("the cases depart from the question of %q", report.Tenant)
	}
}

// whole is a decision that grants everything that was asked for.
const whole = `{
	"effect": "allow", "runtime": "runc", "reuse": "never", "session": null, "optional_controls": [],
	"limits": {"timeout_ms": 1000, "memory_mib": 64, "cpu_millis": 100, "cpu_shares": 256, "pids": 16, "nofile": 64, "tmp_mib": 1,
		"workspace_mib": 1, "shm_mib": 1, "output_kib": 1, "result_kib": 1, "files_mib": 1, "files_count": 1},
	"on_exceed": {}, "image": {"digests": [object.get(input, ["action", "image", "digest"], "")]}, "env": {"allow": object.get(input, ["action", "env_names"], [])},
	"network": {"rules": []}, "credentials": [], "obligations": [], "advice": []
}`

// A policy that is open in some way is found by the cases of that way, and every
// case finds one.
func TestOpenPoliciesAreFound(t *testing.T) {
	found := make(map[string]bool)
	for name, test := range map[string]struct {
		rules string
		by    []string // some of the cases that it allows
	}{
		"everything": {"decision := granted", []string{
			"input.empty", "input.version_only", "principal.missing", "principal.empty", "tenant.missing", "tenant.empty",
			"action.missing", "kind.missing", "kind.empty", "kind.unknown", "kind.other_case", "image.digest_other", "env.steers_the_linker", "env.steers_the_gateway",
		}},
		"a runtime by another name": {`decision := object.union(granted, {"runtime": input.action.runtime})`, []string{"runtime.unknown"}},
		"approval for everything":   {`decision := object.union(granted, {"effect": "require_approval"})`, []string{"input.empty", "tenant.missing"}},
		"a list of the forbidden": {`
decision := granted if count(deny) == 0
else := {"effect": "deny"}
deny contains 1 if input.principal.tenant == "evil"`, []string{"tenant.missing", "principal.missing", "input.empty"}},
		"every destination that is asked for": {`decision := object.union(granted, {"network": {
	"rules": [{"host": to.host, "ports": [to.port], "mode": "forward"} | some to in input.action.network],
	"budget": {"requests": 1, "bytes": 1, "requests_per_s": 1, "connections": 1},
}})`, []string{"network.of_nobody"}},
		"every tool that is asked for": {`decision := object.union(granted, {"credentials": [credential |
	some tool in input.action.tools
	credential := {
		"tool": tool, "mount": "database", "engine": "database", "role": tool, "vault_policies": [tool],
		"inject": "env", "env_name": "DB",
	}
]})`, []string{"tools.unknown"}},
		"not equal": {`decision := granted if input.action.kind != "audit_read"`, []string{"kind.unknown", "kind.empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			report := mustDeny(t, policy.Files{"p.rego": []byte("package execgate\n\ngranted := " + whole + "\n\n" + test.rules)})
			for _, id := range report.Allowed {
				found[id] = true
			}
			for _, id := range test.by {
				if !slices.Contains(report.Allowed, id) {
					t.Errorf("not found by %s, but by %v", id, report.Allowed)
				}
			}
			if err := report.Err(); err == nil || !strings.Contains(err.Error(), test.by[0]) {
				t.Errorf("the error is %v", err)
			}
		})
	}
	for _, id := range mustDenyIDs(t) {
		if !found[id] && id != "image.digest_empty" { // the gateway itself refuses that
			t.Errorf("no policy here is found by %s", id)
		}
	}
}

// Where the ordinary question of one tenant is denied, another's is asked.
func TestCasesDepartFromATenantThatIsAllowed(t *testing.T) {
	text := "package execgate\n\ngranted := " + whole + `

decision := granted if input.principal.tenant in object.keys(data.tenants)`
	files := policy.Files{"p.rego": []byte(text), "data.json": []byte(`{"tenants": {"acme": {}, "bcme": {}}}`)}
	if report := mustDeny(t, files); report.Tenant != "acme" || !slices.Contains(report.Allowed, "kind.unknown") {
		t.Errorf("got %+v", report)
	}
	files["data.json"] = []byte(`{"tenants": {}}`)
	if report := mustDeny(t, files); report.Tenant != "" || report.Err() != nil {
		t.Errorf("got %+v", report)
	}
}

// A folder of the name stands for the data under it.
func TestTenantsAreFoundInEveryDataFile(t *testing.T) {
	const text = "package execgate\n\ngranted := " + whole + `

decision := granted if input.principal.tenant in object.keys(data.tenants)`
	for name, data := range map[string]string{
		"data.json":                `{"tenants": {"acme": {}}}`,
		"tenants/data.json":        `{"acme": {}}`,
		"tenants/acme/data.json":   `{}`,
		"tenants/acme/a/data.json": `{}`,
	} {
		if report := mustDeny(t, policy.Files{"p.rego": []byte(text), name: []byte(data)}); report.Tenant != "acme" {
			t.Errorf("%s: the cases depart from the question of %q", name, report.Tenant)
		}
	}
}

// The ids of the cases, each once.
func mustDenyIDs(t *testing.T) (ids []string) {
	t.Helper()
	text, err := os.ReadFile("must_deny.json")
	if err != nil {
		t.Fatal(err)
	}
	var corpus struct{ Cases []struct{ ID string } }
	if err := json.Unmarshal(text, &corpus); err != nil {
		t.Fatal(err)
	}
	for _, c := range corpus.Cases {
		if slices.Contains(ids, c.ID) {
			t.Errorf("%s is there twice", c.ID)
		}
		ids = append(ids, c.ID)
	}
	return ids
}
