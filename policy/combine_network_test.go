package policy

import (
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

func TestRulesMeet(t *testing.T) {
	type rule = execution.NetworkRule
	const intercept, forward = execution.NetworkIntercept, execution.NetworkForward
	for name, test := range map[string]struct {
		a, b rule
		want rule // without a host: nothing
	}{
		"the same":                 {rule{Host: "a.b", Ports: []int{1}, Mode: forward}, rule{Host: "a.b", Ports: []int{1}, Mode: forward}, rule{Host: "a.b", Ports: []int{1}, Mode: forward}},
		"another name":             {rule{Host: "a.b", Ports: []int{1}, Mode: forward}, rule{Host: "c.b", Ports: []int{1}, Mode: forward}, rule{}},
		"another mode":             {rule{Host: "a.b", Ports: []int{1}, Mode: forward}, rule{Host: "a.b", Ports: []int{1}, Mode: intercept}, rule{}},
		"no port of both":          {rule{Host: "a.b", Ports: []int{1}, Mode: forward}, rule{Host: "a.b", Ports: []int{2}, Mode: forward}, rule{}},
		"some ports of both":       {rule{Host: "a.b", Ports: []int{1, 2}, Mode: forward}, rule{Host: "a.b", Ports: []int{2, 3}, Mode: forward}, rule{Host: "a.b", Ports: []int{2}, Mode: forward}},
		"a name below":             {rule{Host: "*.b", Ports: []int{1}, Mode: intercept}, rule{Host: "a.b", Ports: []int{1}, Mode: intercept}, rule{Host: "a.b", Ports: []int{1}, Mode: intercept}},
		"a name below, turned":     {rule{Host: "a.b", Ports: []int{1}, Mode: intercept}, rule{Host: "*.b", Ports: []int{1}, Mode: intercept}, rule{Host: "a.b", Ports: []int{1}, Mode: intercept}},
		"a narrower pattern":       {rule{Host: "*.b", Ports: []int{1}, Mode: intercept}, rule{Host: "*.a.b", Ports: []int{1}, Mode: intercept}, rule{Host: "*.a.b", Ports: []int{1}, Mode: intercept}},
		"the apex is not below":    {rule{Host: "*.b", Ports: []int{1}, Mode: intercept}, rule{Host: "b", Ports: []int{1}, Mode: intercept}, rule{}},
		"a suffix is not below":    {rule{Host: "*.a.b", Ports: []int{1}, Mode: intercept}, rule{Host: "xa.b", Ports: []int{1}, Mode: intercept}, rule{}},
		"any method and some":      {rule{Host: "a", Ports: []int{1}, Mode: intercept}, rule{Host: "a", Ports: []int{1}, Mode: intercept, Methods: []string{"GET"}}, rule{Host: "a", Ports: []int{1}, Mode: intercept, Methods: []string{"GET"}}},
		"no method of both":        {rule{Host: "a", Ports: []int{1}, Mode: intercept, Methods: []string{"PUT"}}, rule{Host: "a", Ports: []int{1}, Mode: intercept, Methods: []string{"GET"}}, rule{}},
		"no path of both":          {rule{Host: "a", Ports: []int{1}, Mode: intercept, Paths: []string{"/a"}}, rule{Host: "a", Ports: []int{1}, Mode: intercept, Paths: []string{"/b"}}, rule{}},
		"private by one of them":   {rule{Host: "a", Ports: []int{1}, Mode: forward, Private: true}, rule{Host: "a", Ports: []int{1}, Mode: forward}, rule{Host: "a", Ports: []int{1}, Mode: forward}},
		"WebSocket by one of them": {rule{Host: "a", Ports: []int{1}, Mode: intercept}, rule{Host: "a", Ports: []int{1}, Mode: intercept, WebSocket: true}, rule{Host: "a", Ports: []int{1}, Mode: intercept}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := meet(test.a, test.b)
			if ok != (test.want.Host != "") {
				t.Fatalf("they meet: %v in %+v", ok, got)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNetworkOfLayers(t *testing.T) {
	budget := func(n int64) *execution.NetworkBudget {
		return &execution.NetworkBudget{Requests: n, Bytes: 100 - n, RequestsPerS: n, Connections: 100 - n}
	}
	rule := execution.NetworkRule{Host: "a", Ports: []int{1}, Mode: execution.NetworkForward}
	both := network{rules: []execution.NetworkRule{rule}, budget: budget(10)}.narrowed(network{rules: []execution.NetworkRule{rule}, budget: budget(20)})
	want := execution.NetworkBudget{Requests: 10, Bytes: 80, RequestsPerS: 10, Connections: 80}
	if len(both.rules) != 1 || *both.budget != want {
		t.Errorf("%+v within %+v", both.rules, *both.budget)
	}
	if none := (network{rules: []execution.NetworkRule{rule}, budget: budget(1)}).narrowed(network{}); len(none.rules) != 0 {
		t.Errorf("a layer that opens nothing leaves %+v", none.rules)
	}
	if none := (network{}).narrowed(network{rules: []execution.NetworkRule{rule}, budget: budget(1)}); len(none.rules) != 0 {
		t.Errorf("a layer opens what the one above does not: %+v", none.rules)
	}
}

func TestCredentialsOfLayers(t *testing.T) {
	organisation := execution.Credential{
		Tool: "db", Mount: "database", Engine: "database", Role: "reader", VaultPolicies: []string{"db"},
		TTLS: 60, Inject: execution.InjectEnv, EnvName: "DB",
	}
	with := func(change func(*execution.Credential)) execution.Credential {
		c := organisation
		change(&c)
		return c
	}
	for name, test := range map[string]struct {
		by   execution.Credential
		want *execution.Credential
	}{
		"by its tool":         {execution.Credential{Tool: "db"}, &organisation},
		"for less time":       {execution.Credential{Tool: "db", TTLS: 30}, new(with(func(c *execution.Credential) { c.TTLS = 30 }))},
		"for more time":       {execution.Credential{Tool: "db", TTLS: 90}, &organisation},
		"another tool":        {execution.Credential{Tool: "other"}, nil},
		"another role":        {execution.Credential{Tool: "db", Role: "writer"}, nil},
		"more policies":       {execution.Credential{Tool: "db", VaultPolicies: []string{"db", "admin"}}, nil},
		"another inject":      {execution.Credential{Tool: "db", Inject: execution.InjectFile}, nil},
		"another destination": {execution.Credential{Tool: "db", Bind: []execution.Binding{{Host: "evil"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := narrowedCredentials([]execution.Credential{organisation}, []execution.Credential{test.by})
			var want []execution.Credential
			if test.want != nil {
				want = append(want, *test.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
