package examples_test

import (
	"context"
	"encoding/json"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/execgate/execgate/examples"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

var images = map[string]string{
	"python": "sha256:" + strings.Repeat("1", 64),
	"node":   "sha256:" + strings.Repeat("2", 64),
}

// Each example passes its own tests and the shipped ones, which cover all of its
// rules; what every policy denies it denies; and nothing in it is found open,
// undescribed or unformatted.
func TestPolicies(t *testing.T) {
	for _, name := range examples.Policies() {
		t.Run(name, func(t *testing.T) {
			files, err := examples.Policy(name)
			if err != nil {
				t.Fatal(err)
			}
			report, err := policy.Test(context.Background(), files)
			if err != nil {
				t.Fatal(err)
			}
			for _, result := range report.Results {
				if result.Outcome != policy.TestPassed {
					t.Errorf("%s: %s %s", result.Location, result.Outcome, result.Error)
				}
			}
			if report.Coverage != 100 {
				t.Errorf("coverage is %.1f %%; not covered: %s", report.Coverage, strings.Join(report.NotCovered, " "))
			}
			checked, err := policy.Check(context.Background(), files, images, gateway.Obligations(true))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range checked.Findings {
				t.Errorf("%s:%d: %s: %s", f.File, f.Line, f.Code, f.Message)
			}
		})
	}
}

// An example adds files and replaces the data: a copy of a shipped rule would
// stay behind when the rule is mended, and what no variable may be named is the same
// everywhere.
func TestExamplesFollowTheShippedPolicy(t *testing.T) {
	shipped, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range examples.Policies() {
		own, err := os.ReadDir(path.Join("policies", name))
		if err != nil {
			t.Fatal(err)
		}
		files, err := examples.Policy(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(env(t, shipped), env(t, files)); diff != "" {
			t.Errorf("%s/data.json: env is not the shipped one: %s", name, diff)
		}
		for _, entry := range own {
			if _, taken := shipped[entry.Name()]; taken && path.Ext(entry.Name()) == ".rego" {
				t.Errorf("%s/%s is also a shipped file", name, entry.Name())
			}
		}
	}
}

// env is data.env of a bundle.
func env(t *testing.T, files policy.Files) (env map[string][]string) {
	t.Helper()
	var data struct{ Env *map[string][]string }
	data.Env = &env
	if err := json.Unmarshal(files["data.json"], &data); err != nil || len(env) == 0 {
		t.Fatalf("data.json has no env: %v", err)
	}
	return env
}

func TestThereIsNoSuchExample(t *testing.T) {
	for _, name := range []string{"", ".", "..", "strict/..", "nothing"} {
		if _, err := examples.Policy(name); err == nil || !strings.Contains(err.Error(), "datascience") {
			t.Errorf("%q: the error is %v", name, err)
		}
	}
}
