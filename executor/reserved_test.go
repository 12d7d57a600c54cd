package executor_test

import (
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// What a tenant with reserved slots runs is in a control group of its own, which
// nobody else's is in, started cold or warm, and what a killed program used is
// found there.
func TestReservedTenantHasItsOwn(t *testing.T) {
	t.Parallel()
	var gateway string
	e := newExecutor(t, warm(0), func(c *executor.Config) {
		c.Reserved, gateway = map[string]int{"kept": 1}, c.Gateway
		c.Warm[0].Target, c.Warm[0].Max = 1, 1
	})
	untilParked(t, e, 5) // four for the tenant, one for everybody
	groups := map[string]int{}
	for _, id := range containers(t, "label=execgate.gateway="+gateway) {
		groups[docker(t, "inspect", "--format", "{{.HostConfig.CgroupParent}}", id)]++
	}
	if len(groups) != 2 || groups[""] != 1 {
		t.Fatalf("control groups: %v", groups)
	}

	of := func(tenant string, limits ...func(*execution.Limits)) execution.Result {
		job := burns(100, "", "while True: pass")
		job.Owner.Tenant = tenant
		h := hostile{job: job, before: func() { untilParked(t, e, 5) }, limits: func(l *execution.Limits) {
			l.TimeoutMS = 400
			for _, change := range limits {
				change(l)
			}
		}, want: execution.OutcomeTimedOut, stdout: "\n"}
		return h.attack(t, e)
	}
	coldShape := func(l *execution.Limits) { l.TmpMiB = 5 }
	for name, r := range map[string]execution.Result{
		"warm": of("kept"), "cold": of("kept", coldShape), "another's": of("other"),
	} {
		if want := name != "cold"; r.Outcome != execution.OutcomeTimedOut || r.Usage.Warm != want {
			t.Errorf("%s: outcome %s, warm %t", name, r.Outcome, r.Usage.Warm)
		}
		if r.Usage.CPUMS < 50 {
			t.Errorf("%s: %d ms of processor time are counted", name, r.Usage.CPUMS)
		}
	}
}
