package policy_test

import (
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

const (
	forwardRule   = `{"host": "db.example.com", "ports": [5432], "mode": "forward", "private": true}`
	networkBudget = `{"requests": 10, "bytes": 1000000, "requests_per_s": 5, "connections": 4}`
	databaseLease = `{"tool": "reports-db", "mount": "database", "engine": "database", "role": "reader",
		"vault_policies": ["reports-db"], "ttl_s": 60, "inject": "env", "env_name": "DB"}`
)

func network(rule string) string { return `{"rules": [` + rule + `], "budget": ` + networkBudget + `}` }

// What is granted is there literally; of credentials only what was asked for.
func TestNetworkAndCredentialsAreGranted(t *testing.T) {
	policy := allowing(map[string]string{
		"network":     network(forwardRule),
		"credentials": `[` + databaseLease + `, ` + strings.Replace(databaseLease, "reports-db", "other-db", 1) + `]`,
	})
	q := question()
	q.Request.Network = []execution.Destination{{Host: "DB.Example.com.", Port: 5432}}
	q.Request.Tools = []string{"reports-db"}
	d := decide(t, policy, q)
	want := execution.Grant{
		Network: execution.Network{
			Rules:  []execution.NetworkRule{{Host: "db.example.com", Ports: []int{5432}, Mode: execution.NetworkForward, Private: true}},
			Budget: execution.NetworkBudget{Requests: 10, Bytes: 1000000, RequestsPerS: 5, Connections: 4},
		},
		Credentials: []execution.Credential{{
			Tool: "reports-db", Mount: "database", Engine: "database", Role: "reader",
			VaultPolicies: []string{"reports-db"}, TTLS: 60, Inject: execution.InjectEnv, EnvName: "DB",
		}},
	}
	if !d.Allowed() {
		t.Fatalf("denied: %+v", d.Reasons)
	}
	if diff := cmp.Diff(want, execution.Grant{Network: d.Grant.Network, Credentials: d.Grant.Credentials}); diff != "" {
		t.Errorf("granted (-want +got):\n%s", diff)
	}
}

func TestDestinationsAndToolsThatAreNotGranted(t *testing.T) {
	policy := allowing(map[string]string{"network": network(forwardRule), "credentials": `[` + databaseLease + `]`})
	for name, test := range map[string]struct {
		to   execution.Destination
		tool string
		code string
	}{
		"another port":      {to: execution.Destination{Host: "db.example.com", Port: 5433}, code: "network_not_granted"},
		"a name below":      {to: execution.Destination{Host: "a.db.example.com", Port: 5432}, code: "network_not_granted"},
		"a name above":      {to: execution.Destination{Host: "example.com", Port: 5432}, code: "network_not_granted"},
		"a suffix":          {to: execution.Destination{Host: "xdb.example.com", Port: 5432}, code: "network_not_granted"},
		"another tool":      {tool: "reports-db2", code: "tool_not_granted"},
		"in another case":   {tool: "Reports-DB", code: "tool_not_granted"},
		"a tool of no name": {tool: "", code: "tool_not_granted"},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			if test.to.Host != "" {
				q.Request.Network = []execution.Destination{test.to}
			} else {
				q.Request.Tools = []string{test.tool}
			}
			wantDenied(t, decide(t, policy, q), test.code)
		})
	}
}

// What a policy grants has to make sense before anything is opened or lent.
func TestNetworkAndCredentialsThatMakeNoSense(t *testing.T) {
	rule := func(from, to string) string { return network(strings.Replace(forwardRule, from, to, 1)) }
	lease := func(from, to string) string { return `[` + strings.Replace(databaseLease, from, to, 1) + `]` }
	for name, test := range map[string]struct{ field, value, says string }{
		"no budget":                {"network", `{"rules": [` + forwardRule + `]}`, "network.budget is missing"},
		"half a budget":            {"network", `{"rules": [` + forwardRule + `], "budget": {"requests": 1}}`, "budget lacks"},
		"no ports":                 {"network", rule("[5432]", "[]"), "ports is empty"},
		"port 0":                   {"network", rule("5432", "0"), "0 is not a port"},
		"no mode":                  {"network", rule(`"mode": "forward", `, ""), "mode is missing"},
		"methods of a forward":     {"network", rule(`"private"`, `"methods": ["GET"], "private"`), "carries bytes"},
		"a wildcard of a forward":  {"network", rule("db.", "*."), "for one name"},
		"upper case":               {"network", rule("db.", "DB."), "not a name in lower case"},
		"a dot at the end":         {"network", rule("example.com", "example.com."), "not a name"},
		"an address":               {"network", rule("db.example.com", "10.0.0.1"), "an address"},
		"an address of IPv6":       {"network", rule("db.example.com", "::1"), "an address"},
		"a short address":          {"network", rule("db.example.com", "127.1"), "an address"},
		"a decimal address":        {"network", rule("db.example.com", "2130706433"), "an address"},
		"a hexadecimal address":    {"network", rule("db.example.com", "0x7f000001"), "an address"},
		"no host":                  {"network", rule("db.example.com", ""), "not a name"},
		"a path that climbs":       {"credentials", lease(`"role": "reader"`, `"path": "creds/../../sys/seal"`), "is not a path"},
		"an encoded path":          {"credentials", lease(`"role": "reader"`, `"path": "creds/%2e%2e/x"`), "is not a path"},
		"a glob":                   {"credentials", lease(`"role": "reader"`, `"path": "creds/*"`), "is not a path"},
		"a role with a slash":      {"credentials", lease("reader", "reader/../x"), "not the name of a role"},
		"a query":                  {"credentials", lease(`"role": "reader"`, `"path": "creds/a?list=true"`), "is not a path"},
		"a mount that climbs":      {"credentials", lease(`"mount": "database"`, `"mount": "database/.."`), "is not a path"},
		"neither path nor role":    {"credentials", lease(`"role": "reader",`, ""), "path and role are missing"},
		"the policy root":          {"credentials", lease(`["reports-db"]`, `["root"]`), "no execution may have"},
		"no policy of Vault":       {"credentials", lease(`["reports-db"]`, `[]`), "vault_policies is empty"},
		"no inject":                {"credentials", lease(`"inject": "env", `, ""), "inject is missing"},
		"a variable of the linker": {"credentials", lease(`"DB"`, `"LD"`), "env_name"},
		"a file outside":           {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "file", "file_path": "/etc/passwd"`), "file_path"},
		"a file that climbs":       {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "file", "file_path": "/tmp/../etc/passwd"`), "file_path"},
		"a file that is taken":     {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "file", "file_path": "/workspace/out/key"`), "file_path"},
		"uses of a variable":       {"credentials", lease(`"ttl_s"`, `"max_uses": 1, "ttl_s"`), "max_uses"},
		"a binding of everywhere":  {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "egress", "bind": [{"host": "*.example.com", "port": 443, "mode": "bearer"}]`), "not one name"},
		"a binding without a port": {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "egress", "bind": [{"host": "a.example.com", "mode": "bearer"}]`), "not a port"},
		"a header without a name":  {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "egress", "bind": [{"host": "a.example.com", "port": 443, "mode": "header"}]`), "name is missing"},
		"no binding":               {"credentials", lease(`"inject": "env", "env_name": "DB"`, `"inject": "egress"`), "bind is empty"},
		"unknown engine":           {"credentials", lease(`"engine": "database"`, `"engine": "transit"`), "engine"},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, allowing(map[string]string{test.field: test.value}), question())
			wantDenied(t, d, execution.CodePolicyInvalid)
			if !strings.Contains(d.Reasons[0].Message, test.says) {
				t.Errorf("the message is %q: want it to say %q", d.Reasons[0].Message, test.says)
			}
		})
	}
}

// Of two credentials in one place the program would have one, and nobody could say which.
func TestCredentialsInOnePlace(t *testing.T) {
	file := func(tool, path string) string {
		return strings.NewReplacer(`reports-db`, tool, `"inject": "env", "env_name": "DB"`, `"inject": "file", "file_path": "`+path+`"`).Replace(databaseLease)
	}
	variable := func(tool, name string) string {
		return strings.NewReplacer(`reports-db`, tool, `"DB"`, `"`+name+`"`).Replace(databaseLease)
	}
	for name, test := range map[string]struct {
		one, other string
		tools      []string
		says       string // empty: allowed
	}{
		"one variable":                 {variable("a", "DB"), variable("b", "DB"), []string{"a", "b"}, `"DB"`},
		"one variable, of one tool":    {variable("a", "DB"), variable("a", "DB"), []string{"a"}, `"DB"`},
		"one variable, one asked for":  {variable("a", "DB"), variable("b", "DB"), []string{"b"}, ""},
		"two variables":                {variable("a", "DB"), variable("b", "DB2"), []string{"a", "b"}, ""},
		"one file":                     {file("a", "/tmp/key"), file("b", "/tmp/key"), []string{"a", "b"}, `"/tmp/key"`},
		"a file below a file":          {file("a", "/tmp/key/b"), file("b", "/tmp/key"), []string{"a", "b"}, `"/tmp/key"`},
		"two files":                    {file("a", "/tmp/key"), file("b", "/tmp/keys"), []string{"a", "b"}, ""},
		"a file and a variable":        {file("a", "/tmp/key"), variable("b", "DB"), []string{"a", "b"}, ""},
		"a variable that begins alike": {variable("a", "DB"), variable("b", "DB_A"), []string{"a", "b"}, `"DB"`},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			q.Request.Tools = test.tools
			d := decide(t, allowing(map[string]string{"credentials": `[` + test.one + `, ` + test.other + `]`}), q)
			if test.says == "" {
				if !d.Allowed() {
					t.Errorf("denied: %+v", d.Reasons)
				}
				return
			}
			wantDenied(t, d, execution.CodePolicyInvalid)
			if !strings.Contains(d.Reasons[0].Message, test.says) {
				t.Errorf("the message is %q: want it to name %s", d.Reasons[0].Message, test.says)
			}
		})
	}
}
