package execution_test

import (
	"testing"

	"github.com/execgate/execgate/execution"
)

func TestRuleOpens(t *testing.T) {
	exact := execution.NetworkRule{Host: "a.example.com", Ports: []int{443, 8443}}
	below := execution.NetworkRule{Host: "*.example.com", Ports: []int{443}}
	for name, test := range map[string]struct {
		rule execution.NetworkRule
		host string
		port int
		want bool
	}{
		"the name":           {exact, "a.example.com", 443, true},
		"its other port":     {exact, "a.example.com", 8443, true},
		"another port":       {exact, "a.example.com", 80, false},
		"a name below":       {exact, "b.a.example.com", 443, false},
		"a suffix of it":     {exact, "example.com", 443, false},
		"no name":            {execution.NetworkRule{Ports: []int{443}}, "", 443, false},
		"below the wildcard": {below, "a.example.com", 443, true},
		"further below":      {below, "b.a.example.com", 443, true},
		"the apex":           {below, "example.com", 443, false},
		"no label before it": {below, ".example.com", 443, false},
		"without the dot":    {below, "aexample.com", 443, false},
		"a wildcard of all":  {execution.NetworkRule{Host: "*.", Ports: []int{443}}, "a.", 443, false},
		"the zero rule":      {execution.NetworkRule{}, "a.example.com", 443, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.rule.Opens(execution.Destination{Host: test.host, Port: test.port}); got != test.want {
				t.Errorf("%q:%d by %+v: %v", test.host, test.port, test.rule, got)
			}
		})
	}
}

func TestVariableOfAField(t *testing.T) {
	c := execution.Credential{EnvName: "DB"}
	for field, want := range map[string]string{"password": "DB_PASSWORD", "ca-chain": "DB_CA_CHAIN", "é": "DB___"} {
		if got := c.VariableOf(field); got != want {
			t.Errorf("%q is in %s, want %s", field, got, want)
		}
	}
}
