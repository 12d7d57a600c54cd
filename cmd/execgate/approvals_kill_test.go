package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A tenant's policy holds everything back. What awaits approval outlives a gateway
// that is killed, runs once it is approved, and does not once the policy is another.
func TestApprovalOutlivesAKilledGateway(t *testing.T) {
	t.Parallel()
	tenants := t.TempDir()
	rego := filepath.Join(tenants, "default", "policy.rego")
	write := func(text string) {
		if err := os.MkdirAll(filepath.Dir(rego), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(rego, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const held = `package execgate

decision := {"effect": "require_approval", "approval": {"expires_s": 600, "roles": ["approver"]}} if not input.context.approval

decision := {"effect": "allow"} if input.context.approval.by != input.principal.subject
`
	write(held)
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_TENANTS": tenants})
	approver := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"roles":["approver"]}`))
	var asked [2]struct{ ID, State, Approval string }
	for i := range asked {
		a := g.request(http.MethodPost, "/v1/executions", `{"language": "python", "code": "print('the held code')"}`)
		if err := json.Unmarshal(a.body, &asked[i]); err != nil || a.status != http.StatusAccepted || asked[i].State != "awaiting_approval" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	g.kill()
	for _, name := range []string{"store.db", "store.db-wal"} {
		if content, err := os.ReadFile(filepath.Join(g.state, name)); err == nil && strings.Contains(string(content), "the held code") {
			t.Errorf("the code stands in %s", name)
		}
	}
	g.start()
	g.waitReady()
	approve := func(i int, body string) reply {
		return g.request(http.MethodPost, "/v1/approvals/"+asked[i].Approval, body, "Authorization", approver)
	}
	if a := g.request(http.MethodPost, "/v1/approvals/"+asked[0].Approval, `{"decision":"approve"}`); a.status != http.StatusForbidden {
		t.Errorf("one's own: %d %s", a.status, a.body)
	}
	if a := approve(0, `{"decision":"approve","comment":"fine"}`); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	eventually(t, "the end of what was approved", func() bool {
		return strings.Contains(string(g.request(http.MethodGet, "/v1/executions/"+asked[0].ID, "").body), `"stdout":"the held code\n"`)
	})
	if a := approve(0, `{"decision":"approve"}`); a.status != http.StatusConflict {
		t.Errorf("%d %s", a.status, a.body)
	}

	g.stop()
	write(held + "\n# another revision\n")
	g.start()
	g.waitReady()
	if a := approve(1, `{"decision":"approve"}`); !strings.Contains(string(a.body), `"why":"policy_changed"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	g.stop()
	if left := g.containers(); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
	var types []string
	for _, r := range g.records() {
		if r.Approval != nil || r.Decided != nil || r.Type == execution.RecordEnded {
			types = append(types, string(r.Type))
		}
	}
	want := "decided approval_requested decided approval_requested approval_approved decided ended approval_approved decided approval_voided"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("records\n%s\nwant\n%s", got, want)
	}
	g.verify()
}
