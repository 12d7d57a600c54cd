package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A tenant's own policy narrows what the organisation grants it, in a process of
// its own; one that is broken denies its tenant and no other.
func TestTenantsOwnPolicies(t *testing.T) {
	t.Parallel()
	tenants := t.TempDir()
	for tenant, rego := range map[string]string{
		"default":  "package execgate\n\ndecision := {\"effect\": \"allow\", \"limits\": {\"memory_mib\": 96}}",
		"research": "package execgate\n\ndecision := {",
	} {
		if err := os.Mkdir(filepath.Join(tenants, tenant), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tenants, tenant, "policy.rego"), []byte(rego), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_TENANTS": tenants})
	const job = `{"language": "python", "code": "print(1)", "limits": {"memory_mib": 512}}`
	a := g.request(http.MethodPost, "/v1/executions", job)
	if want := `{"limit":"memory_mib","requested":512,"granted":96}`; a.status != 200 || !strings.Contains(string(a.body), want) {
		t.Errorf("%d %s: want %s", a.status, a.body, want)
	}
	other := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"roles":["caller"],"tenant":"research"}`))
	if p := g.request(http.MethodPost, "/v1/executions", job, "Authorization", other).refused(t, http.StatusServiceUnavailable); p.Code != execution.CodePolicyNotLoaded {
		t.Errorf("%+v", p)
	}
	ci := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"roles":["caller"],"tenant":"ci"}`))
	if a := g.request(http.MethodPost, "/v1/executions", `{"language": "python", "code": "print(1)"}`, "Authorization", ci); a.status != 200 {
		t.Errorf("a tenant without a policy of its own: %d %s", a.status, a.body)
	}

	// Both are followed while the gateway runs.
	write := func(tenant, answer string) {
		t.Helper()
		path := filepath.Join(tenants, tenant, "policy.rego")
		if err := os.WriteFile(path+"~", []byte("package execgate\n\ndecision := "+answer), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	write("research", `{"effect": "deny", "reasons": [{"code": "mended"}]}`)
	write("default", `{"effect": "deny", "reasons": [{"code": "closed"}]}`)
	for _, is := range []struct{ key, code string }{{other, "mended"}, {"Bearer " + g.key(), "closed"}} {
		eventually(t, "the tenant's policy says "+is.code, func() bool {
			a := g.request(http.MethodPost, "/v1/executions", job, "Authorization", is.key)
			return strings.Contains(string(a.body), `"code":"`+is.code+`"`)
		})
	}

	var layers, refused int
	for _, r := range g.records() {
		if r.Decided != nil && len(r.Decided.Decision.Layers) == 1 {
			layers++
		}
		if r.Type == execution.RecordPolicyRefused && r.Policy.Tenant == "research" && strings.Contains(r.Policy.Errors[0], "policy.rego:") {
			refused++
		}
	}
	if layers < 4 || refused != 1 {
		t.Errorf("%d records have a layer, %d refuse the broken policy: want 4 and 1", layers, refused)
	}
}
