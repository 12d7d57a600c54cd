package policy_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/execgate/execgate/policy"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Every builtin of OPA is either allowed or not, and the golden list says
// which: an update of OPA that brings a new one fails here until somebody has
// decided. Write it anew with EXECGATE_UPDATE_GOLDEN=1.
func TestBuiltinsAreThoseOfTheGoldenList(t *testing.T) {
	const golden = "testdata/builtins.golden"
	var list strings.Builder
	allowed := policy.AllowedBuiltins()
	for _, builtin := range ast.CapabilitiesForThisVersion().Builtins {
		verdict := "removed"
		if slices.Contains(allowed, builtin.Name) {
			verdict = "allowed"
			if builtin.Nondeterministic || builtin.IsDeprecated() {
				t.Errorf("%s is allowed, and not deterministic or deprecated", builtin.Name)
			}
		}
		list.WriteString(verdict + " " + builtin.Name + "\n")
	}
	for _, name := range allowed {
		if _, known := ast.BuiltinMap[name]; !known {
			t.Errorf("%s is allowed, but OPA has no such builtin", name)
		}
	}
	if os.Getenv("EXECGATE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(list.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if list.String() != string(want) {
		t.Errorf("the builtins are not those of %s; they are now:\n%s", golden, list.String())
	}
}

// What a policy could do harm with is not there, called in any way.
func TestForbiddenBuiltinsDoNotCompile(t *testing.T) {
	calls := map[string]string{
		"http.send":               `http.send({"method": "get", "url": "http://127.0.0.1"})`,
		"opa.runtime":             `opa.runtime()`,
		"net.lookup_ip_addr":      `net.lookup_ip_addr("localhost")`,
		"time.now_ns":             `time.now_ns()`,
		"rand.intn":               `rand.intn("a", 10)`,
		"uuid.rfc4122":            `uuid.rfc4122("a")`,
		"bits.lsh":                `bits.lsh(1, 10000000000)`,
		"rego.parse_module":       `rego.parse_module("a", "package a")`,
		"json.marshal":            `json.marshal([])`,
		"json.patch":              `json.patch({}, [])`,
		"json.match_schema":       `json.match_schema({}, {})`,
		"yaml.marshal":            `yaml.marshal([])`,
		"strings.render_template": `strings.render_template("", {})`,
		"graph.reachable_paths":   `graph.reachable_paths({}, [])`,
		"numbers.range":           `numbers.range(1, 10000000000)`,
		"sprintf":                 `sprintf("%999999d", [1])`,
		"glob.match":              `glob.match("*{a,b}", [], "a")`,
		"net.cidr_expand":         `net.cidr_expand("0.0.0.0/0")`,
		"io.jwt.decode":           `io.jwt.decode("")`,
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, rego("package execgate\n\ndecision := "+call), "undefined function "+name)
		})
	}
	t.Run("with", func(t *testing.T) {
		wantRefused(t, rego("package execgate\n\ndecision := x if x := lower(\"a\") with lower as opa.runtime"), "opa")
	})
	t.Run("hint", func(t *testing.T) {
		wantRefused(t, rego("package execgate\n\ndecision := sprintf(\"%d\", [1])"), "template string")
	})
}

// The compiler fetches no schema that an annotation refers to.
func TestRemoteSchemaIsNotFetched(t *testing.T) {
	var fetched atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Store(true)
		_, _ = w.Write([]byte(`{"type": "object"}`))
	}))
	defer server.Close()
	wantRefused(t, rego(`# METADATA
# scope: package
# schemas:
#   - input: {"$ref": "`+server.URL+`"}
package execgate

decision := {"effect": input.effect}`), "")
	if fetched.Load() {
		t.Error("the schema was fetched")
	}
}

// Policies are type-checked against the schema of the input.
func TestMisspelledInputDoesNotCompile(t *testing.T) {
	for _, ref := range []string{
		"input.prinicpal.tenant", "input.principal.tennant", "input.action.limits.memory_mb",
		"input.action.network[0].hosts", "input.context.counters.executions", "input.action.code.txt",
	} {
		t.Run(ref, func(t *testing.T) {
			wantRefused(t, rego("package execgate\n\ndecision := {\"effect\": "+ref+"}"), "undefined ref: "+ref)
		})
	}
	wantRefused(t, rego("package execgate\n\ndecision := {\"effect\": \"allow\"} if input.v == \"1\""), "match error")
}

// wantRefused checks that a bundle is not activated, for a reason that says so.
func wantRefused(t *testing.T, bundle policy.Bundle, says string) {
	t.Helper()
	engine, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = engine.Activate(context.Background(), bundle)
	if err == nil {
		t.Fatal("the bundle was activated")
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("error is %q: want it to say %q", err, says)
	}
	if engine.Revision() != "" {
		t.Error("there is a revision in force")
	}
}
