package policy_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

// sent is a question about a request that openedPolicy allows.
func sent() execution.Question {
	q := question()
	return execution.Question{
		ID: q.ID, Time: q.Time, Principal: q.Principal, Action: execution.ActionEgress,
		Egress: &execution.EgressRequest{Host: "api.example.com", Port: 443, Method: "GET", Path: "/v1/items/7", Bytes: 0},
	}
}

// openedPolicy is the shipped policy, whose tenant default reaches a host besides, with
// the members of more in its data.
func openedPolicy(t testing.TB, more string) policy.Bundle {
	t.Helper()
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	const tenant = `"env": {"allowed": ["[A-Z][A-Z0-9_]*"]},`
	if strings.Count(string(files["data.json"]), tenant) != 1 {
		t.Fatalf("the shipped data has no %s", tenant)
	}
	files["data.json"] = []byte(strings.Replace(string(files["data.json"]), tenant, tenant+`
		"network": {
			"rules": [
				{"host": "api.example.com", "ports": [443], "methods": ["GET"], "paths": ["/v1/*"], "mode": "intercept"},
				{"host": "*.amazonaws.com", "ports": [443], "mode": "intercept"},
				{"host": "db.example.com", "ports": [5432], "mode": "forward"}
			],
			"budget": `+networkBudget+more+`
		},`, 1))
	bundle := shipped()
	bundle.Files = files
	return bundle
}

// A request that a program sends out needs no grant: its execution has one.
func TestEgressIsAnEffectAndReasons(t *testing.T) {
	d := decide(t, openedPolicy(t, ""), sent())
	want := execution.Decision{
		Effect: execution.EffectAllow, Reasons: []execution.Reason{}, Clamped: []execution.Clamp{}, Revision: d.Revision,
	}
	if diff := cmp.Diff(want, d); diff != "" || d.Revision == "" {
		t.Errorf("decided (-want +got):\n%s", diff)
	}
}

func TestShippedPolicyDeniesOtherEgress(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*execution.Question)
		code   string
	}{
		"another host":            {func(q *execution.Question) { q.Egress.Host = "evil.example.com" }, "network_not_granted"},
		"another port":            {func(q *execution.Question) { q.Egress.Port = 8443 }, "network_not_granted"},
		"another method":          {func(q *execution.Question) { q.Egress.Method = "POST" }, "network_not_granted"},
		"another path":            {func(q *execution.Question) { q.Egress.Path = "/v2/items" }, "network_not_granted"},
		"unread":                  {func(q *execution.Question) { q.Egress.Method, q.Egress.Path = "", "" }, "network_not_granted"},
		"an address":              {func(q *execution.Question) { q.Egress.Host = "169.254.169.254" }, "network_not_granted"},
		"another tenant":          {func(q *execution.Question) { q.Principal.Tenant = "ci" }, "network_not_granted"},
		"nobody's tenant":         {func(q *execution.Question) { q.Principal.Tenant = "nobody" }, "network_not_granted"},
		"no role":                 {func(q *execution.Question) { q.Principal.Roles = nil }, "role_missing"},
		"a token":                 {func(q *execution.Question) { q.Egress.Host = "sts.eu-west-1.amazonaws.com" }, "token_endpoint"},
		"no request":              {func(q *execution.Question) { q.Egress = nil }, "egress_invalid"},
		"no host":                 {func(q *execution.Question) { q.Egress.Host = "" }, "egress_invalid"},
		"no name":                 {func(q *execution.Question) { q.Egress.Host = "a..b" }, "egress_invalid"},
		"no port":                 {func(q *execution.Question) { q.Egress.Port = 0 }, "egress_invalid"},
		"a port too high":         {func(q *execution.Question) { q.Egress.Port = 65536 }, "egress_invalid"},
		"a method with a space":   {func(q *execution.Question) { q.Egress.Method = "GET /" }, "egress_invalid"},
		"a method in lower case":  {func(q *execution.Question) { q.Egress.Method = "get" }, "egress_invalid"},
		"a long method":           {func(q *execution.Question) { q.Egress.Method = strings.Repeat("A", 33) }, "egress_invalid"},
		"a method without a path": {func(q *execution.Question) { q.Egress.Path = "" }, "egress_invalid"},
		"a path without a method": {func(q *execution.Question) { q.Egress.Method = "" }, "egress_invalid"},
		"a path that climbs":      {func(q *execution.Question) { q.Egress.Path = "/v1/../v2" }, "egress_invalid"},
		"a path with a dot":       {func(q *execution.Question) { q.Egress.Path = "/v1/./items" }, "egress_invalid"},
		"a path with two slashes": {func(q *execution.Question) { q.Egress.Path = "/v1//items" }, "egress_invalid"},
		"a path with a query":     {func(q *execution.Question) { q.Egress.Path = "/v1/items?a=b" }, "egress_invalid"},
		"a path with a backslash": {func(q *execution.Question) { q.Egress.Path = `/v1\items` }, "egress_invalid"},
		"a path with a line end":  {func(q *execution.Question) { q.Egress.Path = "/v1/items\n" }, "egress_invalid"},
		"a path that is relative": {func(q *execution.Question) { q.Egress.Path = "v1/items" }, "egress_invalid"},
		"a long path":             {func(q *execution.Question) { q.Egress.Path = "/v1/" + strings.Repeat("a", 64<<10) }, "egress_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			q := sent()
			test.change(&q)
			wantDenied(t, decide(t, openedPolicy(t, ""), q), test.code)
		})
	}
}

// Where credentials are made, of the clouds and identity providers that the shipped
// data name, nothing is sent, whatever a tenant's rules open.
func TestShippedPolicyDeniesTokenEndpoints(t *testing.T) {
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	everything := `"network": {"rules": [`
	for _, domain := range []string{"com", "net", "org", "us", "cn", "eu", "io", "internal", "api.aws", "example", "execgate"} {
		everything += `{"host": "*.` + domain + `", "ports": [443], "mode": "intercept"},`
	}
	everything = strings.TrimSuffix(everything, ",") + `], "budget": ` + networkBudget + `},`
	files["data.json"] = []byte(strings.Replace(string(files["data.json"]), `"env": {"allowed": ["[A-Z][A-Z0-9_]*"]},`,
		everything+`"env": {"allowed": ["[A-Z][A-Z0-9_]*"]},`, 1))
	bundle := shipped()
	bundle.Files = files
	engine := newEngine(t, policy.Config{Deadline: 30 * time.Second}, bundle)
	for to, denied := range map[string]bool{
		"sts.amazonaws.com/":                                          true,
		"sts.us-gov-west-1.amazonaws.com/":                            true,
		"sts-fips.us-east-1.amazonaws.com/":                           true,
		"sts.cn-north-1.amazonaws.com.cn/":                            true,
		"sts.eu-west-1.api.aws/":                                      true,
		"vpce-0a-1b.sts.eu-west-1.vpce.amazonaws.com/":                true,
		"portal.sso.eu-west-1.amazonaws.com/federation":               true,
		"oidc.eu-west-1.amazonaws.com/token":                          true,
		"acme.auth.eu-west-1.amazoncognito.com/oauth2/token":          true,
		"oauth2.googleapis.com/token":                                 true,
		"iamcredentials.googleapis.com/v1/projects/-":                 true,
		"europe-west1-iamcredentials.googleapis.com/v1":               true,
		"metadata.google.internal/computeMetadata/v1/":                true,
		"login.microsoftonline.com/acme/oauth2/v2.0/token":            true,
		"graph.microsoft.com/v1.0/applications/1/addPassword":         true,
		"acme.b2clogin.com/":                                          true,
		"acme.okta.com/oauth2/default/v1/token":                       true,
		"acme.eu.auth0.com/":                                          true,
		"github.com/login/oauth/access_token":                         true,
		"api.github.com/app/installations/1/access_tokens":            true,
		"gitlab.example/oauth/token":                                  true,
		"sso.keycloak.example/realms/a/protocol/openid-connect/token": true,
		"vault.corp.example/v1/auth/token/create":                     true,
		"registry.npmjs.org/-/npm/v1/tokens":                          true,
		"pypi.org/_/oidc/mint-token":                                  true,
		"auth.docker.io/token":                                        true,

		"s3.eu-west-1.amazonaws.com/bucket/sts": false,
		"storage.googleapis.com/bucket":         false,
		"graph.microsoft.com/v1.0/me":           false,
		"api.github.com/repos/a/b":              false,
		"github.com/a/b":                        false,
		"registry.npmjs.org/left-pad":           false,
		"pypi.org/simple/requests/":             false,
		"api.openai.com/v1/responses":           false,
		"login.example/oauth/tokens/list":       false,
		"tools.execgate/access_tokens":          false, // what that sends out is asked about by itself
	} {
		q := sent()
		host, path, _ := strings.Cut(to, "/")
		q.Egress.Host, q.Egress.Path = host, "/"+path
		d := engine.Decide(t.Context(), q)
		if d.Allowed() == denied || denied && d.Reasons[0].Code != "token_endpoint" {
			t.Errorf("%s: %s %+v", to, d.Effect, d.Reasons)
		}
	}
}

// A document of the kind egress is asked for an explicit allow, and for nothing that
// a grant needs.
func TestAnswersAboutEgress(t *testing.T) {
	for name, test := range map[string]struct {
		document string
		codes    []string // nil: allowed
	}{
		"allow":                    {`{"effect": "allow"}`, nil},
		"allow with a grant":       {allowDocument(nil), nil},
		"allow with advice":        {`{"effect": "allow", "advice": [{"type": "log"}]}`, nil},
		"deny":                     {`{"effect": "deny"}`, []string{"denied"}},
		"deny with a reason":       {`{"effect": "deny", "reasons": [` + local + `]}`, []string{"local"}},
		"no effect":                {`{}`, []string{"policy_invalid"}},
		"another effect":           {`{"effect": "Allow"}`, []string{"policy_invalid"}},
		"an unknown field":         {`{"effect": "allow", "allow": true}`, []string{"policy_invalid"}},
		"an approval":              {`{"effect": "require_approval", "approval": {"expires_s": 60, "roles": ["approver"]}}`, []string{"policy_unsupported"}},
		"an obligation":            {`{"effect": "allow", "obligations": [{"type": "redact"}]}`, []string{"policy_unsupported"}},
		"one that need not be met": {`{"effect": "allow", "obligations": [{"type": "log", "must": false}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Obligations: []string{"redact"}}, answer(test.document))
			d := engine.Decide(t.Context(), sent())
			if test.codes != nil {
				wantDenied(t, d, test.codes...)
			} else if !d.Allowed() || d.Grant.Image != "" {
				t.Errorf("decided %+v", d)
			}
			if test.document == `{"effect": "allow"}` {
				wantDenied(t, engine.Decide(t.Context(), question()), "policy_invalid") // of an execution it is not whole
			}
		})
	}
}

const local = `{"code": "local", "message": "m", "rule": "local.one", "remediation": "r"}`

// Each layer can deny what is sent out, and none can allow it alone.
func TestLayersOfEgress(t *testing.T) {
	for name, test := range map[string]struct {
		own      string
		ceilings policy.Ceilings
		to       string
		codes    []string // nil: allowed
	}{
		"none":                     {},
		"a tenant's allow":         {own: `{"effect": "allow"}`},
		"a tenant's denial":        {own: `{"effect": "deny", "reasons": [` + local + `]}`, codes: []string{"local"}},
		"a tenant's approval":      {own: `{"effect": "require_approval", "approval": {"expires_s": 60, "roles": ["a"]}}`, codes: []string{"policy_unsupported"}},
		"a tenant's obligation":    {own: `{"effect": "allow", "obligations": [{"type": "redact"}]}`, codes: []string{"policy_unsupported"}},
		"a tenant's nonsense":      {own: `{"effect": 1}`, codes: []string{"policy_invalid"}},
		"what only a tenant opens": {own: `{"effect": "allow"}`, to: "evil.example.com", codes: []string{"network_not_granted"}},
		"a ceiling":                {ceilings: policy.Ceilings{Ceiling: policy.Ceiling{NoNetwork: true}}, codes: []string{"network_not_granted"}},
		"a tenant's ceiling": {ceilings: policy.Ceilings{Tenants: map[string]policy.Ceiling{"default": {NoNetwork: true}}},
			codes: []string{"network_not_granted"}},
		"other ceilings": {ceilings: policy.Ceilings{Ceiling: policy.Ceiling{Images: []string{}, Runtimes: []string{}, Tools: []string{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: &workers{}, Obligations: []string{"redact"}}, openedPolicy(t, ""))
			if test.own != "" {
				if _, err := engine.ActivateTenant(t.Context(), "default", answer(test.own)); err != nil {
					t.Fatal(err)
				}
			}
			if err := engine.SetCeilings(test.ceilings); err != nil {
				t.Fatal(err)
			}
			q := sent()
			if test.to != "" {
				q.Egress.Host = test.to
			}
			d := engine.Decide(t.Context(), q)
			if test.codes == nil {
				if !d.Allowed() {
					t.Errorf("denied: %+v", d.Reasons)
				}
				return
			}
			wantDenied(t, d, test.codes...)
		})
	}
}

// A rule in the mode warn does not deny what is granted, and lets nothing else out.
func TestModesOfEgress(t *testing.T) {
	const rules = `package execgate

# METADATA
# custom:
#   id: local.warn
#   mode: warn
#   code: local
#   message: Not yet.
#   remediation: Soon.
deny contains reason(rego.metadata.rule(), "", "") if input.principal.tenant == "default"
`
	bundle := openedPolicy(t, "")
	bundle.Files.(policy.Files)["warn.rego"] = []byte(rules)
	d := decide(t, bundle, sent())
	if !d.Allowed() || len(d.Warnings) != 1 || d.Warnings[0].Code != "local" {
		t.Errorf("%s: %+v with %+v", d.Effect, d.Reasons, d.Warnings)
	}
	q := sent()
	q.Egress.Host = "evil.example.com"
	wantDenied(t, decide(t, bundle, q), "network_not_granted")

	warned := `{"effect": "deny", "reasons": [{"code": "local", "rule": "local.warn"}]%s}`
	for name, test := range map[string]struct {
		network string
		allowed bool
	}{
		"without what is granted": {"", false},
		"with nothing granted":    {`, "network": {"rules": []}`, false},
		"with another host":       {`, "network": {"rules": [{"host": "evil.example.com", "ports": [443], "mode": "intercept"}]}`, false},
		"with what opens it":      {`, "network": {"rules": [{"host": "api.example.com", "ports": [443], "mode": "intercept"}]}`, true},
	} {
		text := rules[:strings.Index(rules, "deny contains")] + "noted if true\n\ndecision := " + strings.Replace(warned, "%s", test.network, 1)
		if d := decide(t, rego(text), sent()); d.Allowed() != test.allowed {
			t.Errorf("%s: %s %+v", name, d.Effect, d.Reasons)
		}
	}
}

// That each request is decided is granted with the network, and the stricter wins.
func TestWhoDecidesAboutEgress(t *testing.T) {
	q := question()
	q.Request.Network = []execution.Destination{{Host: "db.example.com", Port: 5432}}
	for name, test := range map[string]struct {
		more, own string
		want      execution.NetworkDecide
	}{
		"nobody says":               {"", "", ""},
		"the grant":                 {`, "decide": "grant"`, "", ""},
		"each request":              {`, "decide": "request"`, "", execution.DecideRequest},
		"the tenant says so":        {"", `, "decide": "request"`, execution.DecideRequest},
		"the tenant says otherwise": {`, "decide": "request"`, `, "decide": "grant"`, execution.DecideRequest},
		"the tenant says nothing":   {`, "decide": "request"`, " ", execution.DecideRequest},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30 * time.Second, Workers: &workers{}}, openedPolicy(t, test.more))
			if test.own != "" {
				own := `{"effect": "allow", "network": {"rules": [{"host": "db.example.com", "ports": [5432], "mode": "forward"}], "budget": ` + networkBudget + test.own + `}}`
				if _, err := engine.ActivateTenant(t.Context(), "default", answer(own)); err != nil {
					t.Fatal(err)
				}
			}
			d := engine.Decide(t.Context(), q)
			if !d.Allowed() || d.Grant.Network.Decide != test.want || len(d.Grant.Network.Rules) != 1 {
				t.Errorf("%s %+v: %+v", d.Effect, d.Reasons, d.Grant.Network)
			}
		})
	}
	for _, word := range []string{`"Request"`, `""`, `true`, `null`} {
		d := decide(t, allowing(map[string]string{"network": `{"rules": [` + forwardRule + `], "budget": ` + networkBudget + `, "decide": ` + word + `}`}), question())
		wantDenied(t, d, execution.CodePolicyInvalid)
	}
}

// What is asked about what is sent out is not kept: there is too much of it.
func TestWitnessKeepsNoEgress(t *testing.T) {
	engine, err := policy.New(policy.Config{Deadline: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	witness := policy.NewWitness(engine)
	if _, err := witness.Activate(context.Background(), openedPolicy(t, "")); err != nil {
		t.Fatal(err)
	}
	if d := witness.Decide(t.Context(), sent()); !d.Allowed() || d.Asked != nil {
		t.Errorf("%s, asked %+v", d.Effect, d.Asked)
	}
	if d := witness.Decide(t.Context(), question()); d.Asked == nil {
		t.Error("an execution is not kept")
	}
}

// A program cannot be told from its document that it is about more than it says.
func TestEgressDocumentIsSmall(t *testing.T) {
	q := sent()
	q.Request = execution.Request{Session: "se_01", Code: "print(1)", Metadata: map[string]string{"agent": "a", "purpose": "b"}}
	q.Egress.Host, q.Egress.Bytes = "API.Example.com.", -1
	text, refusal := policy.InputJSON(q, policy.Config{Environment: "production", InputCode: true})
	if refusal != nil {
		t.Fatal(*refusal)
	}
	var got, want any
	if err := json.Unmarshal([]byte(`{
		"v": 1, "request": {"id": "ex_01", "time_ns": 1767225600000000000, "trace_id": ""},
		"principal": {"subject": "ak_01", "tenant": "default", "roles": ["caller"], "method": "api_key"},
		"agent": {"name": "a", "session": "se_01", "purpose": "b"}, "action": {"kind": "egress"},
		"egress": {"host": "api.example.com", "port": 443, "method": "GET", "path": "/v1/items/7"},
		"context": {"environment": "production"}
	}`), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the document (-want +got):\n%s", diff)
	}
}
