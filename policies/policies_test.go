package policies_test

import (
	"context"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// The Rego tests are the specification of the shipped policy.
func TestRego(t *testing.T) {
	report, err := policy.Test(context.Background(), policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range report.Results {
		t.Run(result.Name, func(t *testing.T) {
			if result.Outcome != policy.TestPassed {
				t.Errorf("%s: %s %s", result.Location, result.Outcome, result.Error)
			}
		})
	}
	if !report.Passed() {
		t.Error("the tests do not pass")
	}
	if report.Coverage != 100 {
		t.Errorf("coverage is %.1f %%; not covered: %s", report.Coverage, strings.Join(report.NotCovered, " "))
	}
}

// What is shipped is in the form that `opa fmt` gives it.
func TestFormatted(t *testing.T) {
	for name, text := range regoFiles(t) {
		formatted, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		if string(formatted) != string(text) {
			t.Errorf("%s is not formatted: run opa fmt -w policies", name)
		}
	}
}

// Every rule that denies says in its metadata what it is and what to do, and no
// two have the same id.
func TestDenyRulesAreDescribed(t *testing.T) {
	ids := make(map[string]string)
	for name, text := range regoFiles(t) {
		module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{ProcessAnnotation: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range module.Rules {
			if rule.Head.Name != "deny" && rule.Head.Name != "refused" && rule.Head.Name != "refused_egress" {
				continue
			}
			where := rule.Location.String()
			if len(rule.Annotations) != 1 {
				t.Errorf("%s: the rule has no metadata", where)
				continue
			}
			custom := rule.Annotations[0].Custom
			for _, key := range []string{"id", "code", "message", "remediation"} {
				if value, _ := custom[key].(string); value == "" {
					t.Errorf("%s: the metadata has no %s", where, key)
				}
			}
			id, _ := custom["id"].(string)
			if other, taken := ids[id]; taken {
				t.Errorf("%s: the id %s is also that of %s", where, id, other)
			}
			ids[id] = where
		}
	}
	if len(ids) == 0 {
		t.Error("there is no rule that denies")
	}
}

func regoFiles(t *testing.T) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := fs.WalkDir(policies.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".rego" {
			return err
		}
		files[name], err = fs.ReadFile(policies.Files, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
