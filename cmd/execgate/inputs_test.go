package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A shadow policy decides nothing: what it would deny runs, and there is a record
// and a metric of it. A decision is kept, whatever it is, and replayed.
func TestShadowOfAGateway(t *testing.T) {
	t.Parallel()
	shadow := filepath.Join(t.TempDir(), "shadow")
	if err := os.Mkdir(shadow, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shadow, "p.rego"), []byte(`package execgate
decision := {"effect": "deny", "reasons": [{"code": "closed", "rule": "shadow.closed"}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_SHADOW": shadow})
	r := g.execute(`{"language":"python","code":"print(1)"}`)
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if strings.Contains(string(r.body), "closed") {
		t.Errorf("the shadow is in the answer: %s", r.body)
	}
	auditor := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["auditor"],"label":"metrics"}`))
	for _, series := range []string{`execgate_shadow_decisions_total{result="allow_to_deny"} 1`, "execgate_inputs_kept_total 1"} {
		eventually(t, series, func() bool { return strings.Contains(g.metrics(auditor), series) })
	}
	// A flip is counted before it is recorded, which a stop does not wait for.
	eventually(t, "the flip is recorded", func() bool { return len(g.recordsOf(execution.RecordPolicyFlip)) > 0 })
	g.stop()
	g.verify()
	flips := g.recordsOf(execution.RecordPolicyFlip)
	if len(flips) != 1 || flips[0].Flip.Is != execution.EffectDeny || flips[0].Flip.IsRules[0] != "shadow.closed" {
		t.Errorf("flips are %+v", flips)
	}
}
