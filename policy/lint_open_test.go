package policy_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/execgate/execgate/policy"
)

// Policies as they are written in haste, each open in a way of its own, and what check
// says of them: the code of a finding, or the id of a case that every policy denies.
func TestPoliciesWrittenInHaste(t *testing.T) {
	const echo = `"image": {"digests": [input.action.image.digest]}`
	grants := func(of, instead string) string {
		if of != "" && !strings.Contains(whole, of) {
			t.Fatalf("%q is not in the whole decision", of)
		}
		return "granted := " + strings.ReplaceAll(strings.Replace(whole, of, instead, 1), `object.get(input, ["action", "image", "digest"], "")`, `data.images.python`)
	}
	for name, test := range map[string]struct {
		grants, rules string
		finds         []string
	}{
		"deny by exception": {grants("", ""), `decision := {"effect": "deny"} if {
	input.action.kind == "session"
} else := granted`, []string{policy.FindOpenDefault, "kind.unknown", "tenant.missing"}},
		"a list of the forbidden": {grants("", ""), `decision := granted if count(violations) == 0

violations contains "blocked" if input.principal.subject in {"ak_bad"}`, []string{policy.FindOpenDefault, "tenant.empty"}},
		"not on the list": {grants("", ""), `decision := granted if not input.principal.tenant in {"evil"}`, []string{policy.FindOpenNegation, "tenant.empty"}},
		"not on the list, by a copy": {grants("", ""), `decision := granted if {
	name := lower(input.principal.tenant)
	not name in {"evil"}
}`, []string{policy.FindOpenNegation, "tenant.empty"}},
		"some role that is not blocked": {grants("", ""), `decision := granted if {
	some role in input.principal.roles
	role != "blocked"
}`, []string{policy.FindOpenInequality, "kind.unknown"}},
		"an effect that starts as allow": {grants(`"effect": "allow"`, `"effect": effect`), `default effect := "allow"

effect := "deny" if input.action.language == "bash"

decision := granted`, []string{policy.FindOpenDefault, "input.empty"}},
		"a flag that starts as true": {grants("", ""), `default known := true

known := false if input.principal.tenant == "evil"

decision := granted if known`, []string{policy.FindOpenDefault, "tenant.missing"}},
		"another tenant's data for those without": {grants("", ""), `tenant := object.get(data.tenants, input.principal.tenant, data.tenants["default"])

decision := granted if {
	input.action.kind == "execute"
	tenant
}`, []string{"tenant.empty"}},
		"a kind in any case": {grants("", ""), `decision := granted if {
	lower(input.action.kind) == "execute"
	data.tenants[input.principal.tenant]
}`, []string{"kind.other_case"}},
		"a tenant by a part of its name": {grants("", ""), `decision := granted if {
	input.action.kind == "execute"
	regex.match("default", input.principal.tenant)
}`, []string{policy.FindOpenPattern}},
		"hosts by the end of their names": {grants(`"network": {"rules": []}`, `"network": {"rules": reached, "budget": {"requests": 1, "bytes": 1, "requests_per_s": 1, "connections": 1}}`), `reached contains {"host": to.host, "ports": [443], "mode": "forward"} if {
	some to in input.action.network
	endswith(to.host, "example.com")
}

decision := granted if {
	input.action.kind == "execute"
	data.tenants[input.principal.tenant]
}`, []string{policy.FindOpenPattern}},
		"whatever image is asked for": {"granted := " + strings.Replace(whole, `"image": {"digests": [object.get(input, ["action", "image", "digest"], "")]}`, echo, 1), `decision := granted if {
	input.action.kind == "execute"
	data.tenants[input.principal.tenant]
}`, []string{"image.digest_other"}},
		"variables but those of a list": {grants(`object.get(input, ["action", "env_names"], [])`, `[name | some name in input.action.env_names; not name in {"PATH"}]`), `decision := granted if {
	input.action.kind == "execute"
	data.tenants[input.principal.tenant]
}`, []string{policy.FindOpenNegation, "env.steers_the_linker"}},
		"a denial that needs what is missing to speak": {grants("", ""), `decision := granted if {
	input.action.kind == "execute"
	data.tenants[input.principal.tenant]
	count(deny) == 0
}

deny contains message if {
	not input.agent.purpose == "report"
	message := concat(" ", ["no reports:", input.action.tool])
}`, []string{policy.FindOpenHead}},
		"a denial by data that may be missing": {grants("", ""), `decision := granted if {
	input.action.kind == "execute"
	data.tenants[input.principal.tenant]
	count(deny) == 0
}

deny contains "language" if not input.action.language in data.languages`, []string{policy.FindOpenNegation}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range check(t, fstest.MapFS{
				"p.rego":    {Data: []byte("package execgate\n\n" + test.grants + "\n\n" + test.rules + "\n")},
				"data.json": {Data: []byte(`{"tenants": {"default": {}}}`)},
			}) {
				if f.Code == policy.FindBroken || f.Code == policy.FindUntried {
					t.Errorf("%s:%d: %s", f.File, f.Line, f.Message)
				}
				got = append(got, f.Code)
				if id, ok := strings.CutPrefix(f.Message, "it allows the case "); ok {
					id, _, _ = strings.Cut(id, ",")
					got = append(got, id)
				}
			}
			for _, want := range test.finds {
				if !slices.Contains(got, want) {
					t.Errorf("%s is not found, but %v", want, got)
				}
			}
		})
	}
}
