package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Ceilings bound what any policy grants, and a file of them that makes no sense
// keeps the gateway from starting.
func TestCeilings(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	file := filepath.Join(t.TempDir(), "ceilings.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"limits": {"memory_mib": 128}}`)
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_CEILINGS": file})
	a := g.request("POST", "/v1/executions", `{"language": "python", "code": "print(1)", "limits": {"memory_mib": 512}}`)
	if want := `{"limit":"memory_mib","requested":512,"granted":128}`; a.status != 200 || !strings.Contains(string(a.body), want) {
		t.Errorf("%d %s: want %s", a.status, a.body, want)
	}

	write(`{"limits": {"memory_mib": 96}}`)
	eventually(t, "the ceilings are those of the file", func() bool {
		a := g.request("POST", "/v1/decisions", `{"language": "python", "code": "print(1)", "limits": {"memory_mib": 512}}`)
		return strings.Contains(string(a.body), `{"limit":"memory_mib","requested":512,"granted":96}`)
	})

	write(`{"limit": {"memory_mib": 128}}`)
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("policy: {ceilings: "+file+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := command(t, "serve", "--state", t.TempDir(), "--config", config)
	if code != 2 || !strings.Contains(errs, `unknown field "limit"`) {
		t.Errorf("exit %d: %s", code, errs)
	}
}
