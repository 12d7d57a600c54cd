package policy_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/google/go-cmp/cmp"
)

// allowing is a whole decision that allows, with the members of replaced in
// place of its own. An empty replacement leaves a member out.
func allowing(replaced map[string]string) policy.Bundle { return answer(allowDocument(replaced)) }

// allowDocument is the document of allowing.
func allowDocument(replaced map[string]string) string {
	members := map[string]string{
		"effect": `"allow"`, "reasons": `[]`,
		"limits": `{"timeout_ms": 1000, "memory_mib": 64, "cpu_millis": 100, "cpu_shares": 256, "pids": 8,
			"nofile": 64, "tmp_mib": 1, "workspace_mib": 1, "shm_mib": 1, "output_kib": 1, "result_kib": 1,
			"files_mib": 1, "files_count": 1}`,
		"on_exceed": `{}`, "image": `{"digests": ["` + digest + `"]}`, "runtime": `"runc"`,
		"env": `{"allow": []}`, "optional_controls": `[]`, "network": `{"rules": []}`, "credentials": `[]`,
		"session": `null`, "reuse": `"never"`, "obligations": `[]`, "advice": `[]`,
	}
	for name, value := range replaced {
		members[name] = value
	}
	var parts []string
	for name, value := range members {
		if value != "" {
			parts = append(parts, `"`+name+`": `+value)
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// The documents of the cases below differ from this one in one field each.
func TestWholeDecisionAllows(t *testing.T) {
	d := decide(t, allowing(nil), question())
	if !d.Allowed() {
		t.Fatalf("denied: %+v", d.Reasons)
	}
	if err := d.Grant.Limits.Validate(); err != nil {
		t.Error(err)
	}
	if d.Grant.Image != digest || d.Grant.Runtime != "runc" || d.Reasons == nil || d.Clamped == nil {
		t.Errorf("the decision is not whole: %+v", d)
	}
}

// Invariant 2: whatever is not an explicit, whole and valid allow denies, each
// with its own code. The zero Decision is tested beside its type.
func TestWhatIsNoAnswerDenies(t *testing.T) {
	const (
		undefined = execution.CodePolicyUndefined
		wrong     = execution.CodePolicyInvalid
		broken    = execution.CodePolicyError
	)
	head := "package execgate\n\n"
	for name, test := range map[string]struct{ rego, code string }{
		"undefined":                {head + `decision := {"effect": "allow"} if input.action.kind == "egress"`, undefined},
		"undefined part":           {head + `decision := {"effect": input.action.args}`, undefined},
		"empty":                    {head + `decision := {}`, wrong},
		"null":                     {head + `decision := null`, wrong},
		"true":                     {head + `decision := true`, wrong},
		"false":                    {head + `decision := false`, wrong},
		"the word allow":           {head + `decision := "allow"`, wrong},
		"array":                    {head + `decision := [{"effect": "allow"}]`, wrong},
		"set of two":               {head + `decision contains {"effect": e} if some e in ["allow", "deny"]`, wrong},
		"set of one":               {head + `decision contains {"effect": "allow"}`, wrong},
		"key that is no string":    {head + `decision := {1: "allow"}`, wrong},
		"two answers":              {head + "decision := {\"effect\": \"allow\"}\n\ndecision := {\"effect\": \"deny\"} if input.v == 1", broken},
		"two answers in one field": {head + "decision.effect := \"allow\"\n\ndecision.effect := \"deny\" if input.v == 1", broken},
		"builtin error":            {head + `decision := {"effect": "allow"} if not to_number(input.agent.name) == 1`, broken},
		"division by zero":         {head + `decision := {"effect": "allow"} if not 1 / (input.v - 1) == 2`, broken},
		"bad pattern":              {head + `decision := {"effect": "allow"} if not regex.match(concat("", ["(", input.agent.name]), "a")`, broken},
		"function conflict":        {head + "f(x) := 1 if x > 0\n\nf(x) := 2 if x > 0\n\ndecision := {\"effect\": \"allow\"} if not f(input.v) == 3", broken},
	} {
		t.Run(name, func(t *testing.T) {
			wantDenied(t, decide(t, rego(test.rego), question()), test.code)
		})
	}
}

// Invariant 2: a field that is missing, unknown or of another type denies.
func TestInvalidDocumentDenies(t *testing.T) {
	limits := func(memory string) map[string]string {
		return map[string]string{"limits": `{"timeout_ms": 1000, "memory_mib": ` + memory + `, "cpu_millis": 100,
			"cpu_shares": 256, "pids": 8, "nofile": 64, "tmp_mib": 1, "workspace_mib": 1, "shm_mib": 1,
			"output_kib": 1, "result_kib": 1, "files_mib": 1, "files_count": 1}`}
	}
	one := func(field, value string) map[string]string { return map[string]string{field: value} }
	for name, test := range map[string]struct {
		members map[string]string
		says    string
	}{
		"no effect":                  {one("effect", ""), "effect is missing"},
		"unknown effect":             {one("effect", `"permit"`), "effect is none of"},
		"effect in capitals":         {one("effect", `"ALLOW"`), "effect is none of"},
		"effect with a space":        {one("effect", `"allow "`), "effect is none of"},
		"effect true":                {one("effect", `true`), "effect is boolean and not a string"},
		"unknown field":              {one("limit", `{}`), "limit is not a field"},
		"key in another case":        {one("Effect", `"allow"`), "Effect is not a field"},
		"no limits":                  {one("limits", ""), "limit timeout_ms is 0"},
		"limits of null":             {one("limits", "null"), "limits is null and not an object"},
		"one limit":                  {one("limits", `{"memory_mib": 64}`), "limit timeout_ms is 0"},
		"unknown limit":              {one("limits", `{"disk_mib": 64}`), "limits.disk_mib is not a field"},
		"limit of zero":              {limits("0"), "limits.memory_mib is 0"},
		"negative limit":             {limits("-1"), "limits.memory_mib is negative"},
		"fraction":                   {limits("64.5"), "limits.memory_mib is not a whole number"},
		"fraction of zero":           {limits("64.0"), "limits.memory_mib is not a whole number"},
		"power of ten":               {limits("1e3"), "limits.memory_mib is not a whole number"},
		"overflow of int64":          {limits("9223372036854775808"), "limits.memory_mib is out of range"},
		"1e400":                      {limits("1e400"), "limits.memory_mib is not a whole number"},
		"a hundred digits":           {limits(strings.Repeat("9", 100)), "limits.memory_mib is out of range"},
		"beyond what is sensible":    {limits("1048577"), "limit memory_mib is 1048577"},
		"the word NaN":               {limits(`"NaN"`), "limits.memory_mib is string and not a number"},
		"number as a string":         {limits(`"64"`), "limits.memory_mib is string and not a number"},
		"no runtime":                 {one("runtime", ""), "runtime is missing"},
		"runtime of a number":        {one("runtime", "1"), "runtime is number and not a string"},
		"unknown part of the image":  {one("image", `{"names": []}`), "image.names is not a field"},
		"digests as a string":        {one("image", `{"digests": "`+digest+`"}`), "image.digests is string and not an array"},
		"digest of null":             {one("image", `{"digests": [null]}`), "image.digests[0] is null and not a string"},
		"env as a list":              {one("env", `["A"]`), "env is array and not an object"},
		"reason without code":        {one("reasons", `[{"message": "x"}]`), "reasons[0].code is missing"},
		"reason with more":           {one("reasons", `[{"code": "x", "severity": 1}]`), "reasons[0].severity is not a field"},
		"unknown limit to exceed":    {one("on_exceed", `{"disk": "deny"}`), "on_exceed.disk is not a field"},
		"unknown way to exceed":      {one("on_exceed", `{"pids": "allow"}`), "on_exceed.pids is none of"},
		"unknown reuse":              {one("reuse", `"always"`), "reuse is none of"},
		"unknown part of a rule":     {one("network", `{"rules": [{"hosts": "a"}]}`), "network.rules[0].hosts is not a field"},
		"negative port":              {one("network", `{"rules": [{"host": "a", "ports": [-1]}]}`), "network.rules[0].ports[0] is negative"},
		"unknown mode":               {one("network", `{"rules": [{"mode": "open"}]}`), "network.rules[0].mode is none of"},
		"unknown part of the budget": {one("network", `{"budget": {"bits": 1}}`), "network.budget.bits is not a field"},
		"unknown binding":            {one("credentials", `[{"bind": [{"mode": "cookie"}]}]`), "credentials[0].bind[0].mode is none of"},
		"time to live of minus one":  {one("credentials", `[{"ttl_s": -1}]`), "credentials[0].ttl_s is negative"},
		"strict as a word":           {one("credentials", `[{"strict": "no"}]`), "credentials[0].strict is string and not a boolean"},
		"unknown part of a session":  {one("session", `{"idle": 1}`), "session.idle is not a field"},
		"session of false":           {one("session", `false`), "session is boolean and not an object"},
		"unknown part of approval":   {one("approval", `{"by": []}`), "approval.by is not a field"},
		"obligation without type":    {one("obligations", `[{"must": false}]`), "obligations[0].type is missing"},
		"must as a number":           {one("obligations", `[{"type": "log", "must": 0}]`), "obligations[0].must is number and not a boolean"},
		"advice that must be":        {one("advice", `[{"type": "log", "must": true}]`), "advice[0] what must be done"},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, allowing(test.members), question())
			wantDenied(t, d, execution.CodePolicyInvalid)
			if !strings.Contains(d.Reasons[0].Message, test.says) {
				t.Errorf("message is %q: want it to say %q", d.Reasons[0].Message, test.says)
			}
		})
	}
}

// Where Rego denies, the rest of its answer is held to the same form: a
// document that is wrong is not half believed.
func TestDenialIsDecodedStrictly(t *testing.T) {
	wantDenied(t, decide(t, answer(`{"effect": "deny", "reason": "no"}`), question()), execution.CodePolicyInvalid)
	wantDenied(t, decide(t, answer(`{"effect": "deny"}`), question()), "denied")
	d := decide(t, answer(`{"effect": "deny", "reasons": {{"code": "b", "rule": "r.b", "message": "m", "remediation": "f"},
		{"code": "a", "rule": "r.a", "message": "m", "remediation": "f"}}}`), question())
	wantDenied(t, d, "a", "b") // a set, in the order Rego sorts by
	if d.Reasons[0].Rule != "r.a" {
		t.Errorf("the id of the rule is %q", d.Reasons[0].Rule)
	}
}

func TestUnsupportedDenies(t *testing.T) {
	for name, test := range map[string]struct{ field, value, says string }{
		"obligation":   {"obligations", `[{"type": "watermark", "must": true}]`, "watermark"},
		"said nothing": {"obligations", `[{"type": "watermark", "ink": "red"}]`, "watermark"},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, allowing(map[string]string{test.field: test.value}), question())
			wantDenied(t, d, execution.CodePolicyUnsupported)
			if !strings.Contains(d.Reasons[0].Message, test.says) {
				t.Errorf("message is %q: want it to name %q", d.Reasons[0].Message, test.says)
			}
		})
	}
}

func TestAdviceIsCarriedOn(t *testing.T) {
	d := decide(t, allowing(map[string]string{
		"obligations": `[{"type": "notify", "must": false, "whom": "team"}]`,
		"advice":      `[{"type": "smaller", "by": 2}]`,
	}), question())
	want := []execution.Obligation{
		{Type: "notify", Args: json.RawMessage(`{"whom":"team"}`)},
		{Type: "smaller", Args: json.RawMessage(`{"by":2}`)},
	}
	if diff := cmp.Diff(want, d.Obligations); !d.Allowed() || diff != "" {
		t.Fatalf("obligations of %q differ (-want +got):\n%s", d.Effect, diff)
	}
}

// Invariant 2: with no policy there is no allow.
func TestNoPolicyDenies(t *testing.T) {
	engine, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	wantDenied(t, engine.Decide(context.Background(), question()), execution.CodePolicyNotLoaded)
	if engine.Ready(context.Background()) == nil || engine.Revision() != "" {
		t.Error("an engine without a policy is ready")
	}
}

func TestCallerThatIsGoneIsDenied(t *testing.T) {
	engine := newEngine(t, policy.Config{Deadline: time.Minute}, endless())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	wantDenied(t, engine.Decide(ctx, question()), execution.CodePolicyTimeout)
}
