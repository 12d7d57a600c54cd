package policy_test

import (
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

func TestParseCeilings(t *testing.T) {
	got, err := policy.ParseCeilings([]byte(`{
		"limits": {"memory_mib": 256}, "images": [],
		"tenants": {"ci": {"no_sessions": true, "runtimes": ["runsc"]}}
	}`))
	want := policy.Ceilings{
		Ceiling: policy.Ceiling{Limits: execution.Limits{MemoryMiB: 256}, Images: []string{}},
		Tenants: map[string]policy.Ceiling{"ci": {NoSessions: true, Runtimes: []string{"runsc"}}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for name, text := range map[string]string{
		"empty":          ``,
		"no object":      `[]`,
		"unknown":        `{"limit": {}}`,
		"unknown limit":  `{"limits": {"memory": 1}}`,
		"another case":   `{"Images": []}`,
		"twice":          `{"images": ["a"], "images": []}`,
		"null":           `{"images": null}`,
		"null limits":    `{"limits": null}`,
		"zero":           `{"limits": {"memory_mib": 0}}`,
		"too little":     `{"limits": {"memory_mib": 1}}`,
		"negative":       `{"limits": {"pids": -1}}`,
		"fraction":       `{"limits": {"pids": 1.5}}`,
		"tenant's":       `{"tenants": {"a": {"limits": {"pids": -1}}}}`,
		"tenant unknown": `{"tenants": {"a": {"tenants": {}}}}`,
		"more":           `{} {}`,
	} {
		if c, err := policy.ParseCeilings([]byte(text)); err == nil {
			t.Errorf("%s: %s is taken as %+v", name, text, c)
		}
	}
}
