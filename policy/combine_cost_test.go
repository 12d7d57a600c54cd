package policy

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
	"golang.org/x/sys/unix"
)

// What a tenant's policy answers is put together with the organisation's in the
// gateway's own process: lists as long as they may be cost milliseconds there. The
// bound is generous; each of these took many seconds when each element was compared
// with each.
func TestLongListsOfATenantCostLittle(t *testing.T) {
	long := func(element func(i int) string) *ast.Array {
		list := make([]*ast.Term, maxElements)
		for i := range list {
			list[i] = ast.MustParseTerm(element(i))
		}
		return ast.NewArray(list...)
	}
	rules := long(func(i int) string { return fmt.Sprintf(`{"host": "h%d.test", "ports": [1], "mode": "forward"}`, i) })
	organisation := decoded(t, wholeDocument)
	for name, field := range map[string]struct {
		key   string
		value ast.Value
	}{
		"reasons":     {"reasons", long(func(i int) string { return fmt.Sprintf(`{"code": "c%d"}`, i) })},
		"obligations": {"obligations", long(func(i int) string { return fmt.Sprintf(`{"type": "t", "must": false, "n": %d}`, i) })},
		"advice":      {"advice", long(func(i int) string { return fmt.Sprintf(`{"type": "t%d"}`, i) })},
	} {
		t.Run(name, func(t *testing.T) {
			own, err := decodeDocument(ast.NewObject(
				ast.Item(ast.StringTerm("effect"), ast.StringTerm("allow")),
				ast.Item(ast.StringTerm(field.key), ast.NewTerm(field.value)),
			))
			if err != nil {
				t.Fatal(err)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin := ofThisThread(t)
			narrow := organisation.narrowed(own, nil)
			if took := ofThisThread(t) - begin; took > time.Second {
				t.Errorf("it took %v", took)
			}
			if n := len(narrow.reasons) + len(narrow.obligations) + len(narrow.advice); n < maxElements {
				t.Errorf("%d are left", n)
			}
		})
	}
	t.Run("rules", func(t *testing.T) {
		var own network
		for i := range maxGrants {
			organisation.network.rules = append(organisation.network.rules, execution.NetworkRule{Host: "*.test", Ports: []int{443, i + 1}, Mode: execution.NetworkIntercept})
			own.rules = append(own.rules, execution.NetworkRule{Host: fmt.Sprintf("h%d.test", i), Ports: []int{i + 1, 443}, Mode: execution.NetworkIntercept})
		}
		organisation.network.budget = &execution.NetworkBudget{Requests: 1, Bytes: 1, RequestsPerS: 1, Connections: 1}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		begin := ofThisThread(t)
		narrow := organisation.network.narrowed(own)
		if took := ofThisThread(t) - begin; took > time.Second {
			t.Errorf("it took %v", took)
		}
		if narrow.incomplete() == "" {
			t.Errorf("%d rules are granted", len(narrow.rules))
		}
	})
	_, err := decodeDocument(ast.NewObject(
		ast.Item(ast.StringTerm("effect"), ast.StringTerm("allow")),
		ast.Item(ast.StringTerm("network"), ast.ObjectTerm(ast.Item(ast.StringTerm("rules"), ast.NewTerm(rules)))),
	))
	if err == nil {
		t.Errorf("%d rules are taken", maxElements)
	}
}

// ofThisThread is what the thread has had of a processor, which is the same however many
// want one.
func ofThisThread(t *testing.T) time.Duration {
	t.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}
