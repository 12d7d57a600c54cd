package policy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

func check(t *testing.T, files fstest.MapFS) []policy.Finding {
	t.Helper()
	report, err := policy.Check(t.Context(), files, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report.Findings
}

func TestNothingIsFoundInTheShippedPolicy(t *testing.T) {
	report, err := policy.Check(t.Context(), policies.Files, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Errorf("%s:%d: %s: %s", f.File, f.Line, f.Code, f.Message)
	}
	if !strings.HasPrefix(report.Digest, "sha256:") {
		t.Errorf("digest %q", report.Digest)
	}
}

// Each rule is put into a policy that is otherwise in order; codes are those found
// in it, with the line in the rule (from 1).
func TestLint(t *testing.T) {
	const before = "package execgate\n\nimport input.action as asked\n\n"
	for name, test := range map[string]struct {
		rule  string
		finds []string
	}{
		"granted by name":                {"ok if input.action.kind in {\"execute\"}", nil},
		"not in a list":                  {"ok if not input.action.kind in {\"audit_read\"}", []string{"open-negation:1"}},
		"not equal in an allow":          {"ok if input.action.kind != \"audit_read\"", []string{"open-inequality:1"}},
		"not equal by an import":         {"ok if asked.kind != \"audit_read\"", []string{"open-inequality:1"}},
		"not equal by a variable":        {"ok if {\n\tkind := input.action.kind\n\tkind != \"audit_read\"\n}", []string{"open-inequality:3"}},
		"the import itself":              {"ok if not asked", []string{"open-negation:1"}},
		"whether it is there":            {"ok if input.action.tool != \"\"", nil},
		"negated function":               {"bad(x) if x == \"evil\"\n\nok if not bad(input.action.tool)", []string{"open-negation:3"}},
		"negated rule over the input":    {"bad if input.action.tool == \"evil\"\n\nok if not bad", []string{"open-negation:3"}},
		"negated rule of a rule":         {"worse if input.action.tool == \"evil\"\n\nbad if worse\n\nok if not bad", []string{"open-negation:5"}},
		"negated rule by its path":       {"bad if input.action.tool == \"evil\"\n\nok if not data.execgate.bad", []string{"open-negation:3"}},
		"negated rule over data":         {"closed if data.closed\n\nok if not closed", nil},
		"inside every":                   {"ok if every f in input.action.files { not f.path in input.action.env_names }", []string{"open-negation:1"}},
		"of every element":               {"ok if every f in input.action.files { not endswith(f.path, \".sh\") }", []string{"open-negation:1"}},
		"of some element":                {"ok if {\n\tsome f in input.action.files\n\tf.path != \"a\"\n}", []string{"open-inequality:3"}},
		"of some element by its key":     {"ok if {\n\tsome i, f in input.action.files\n\tf.path != \"a\"\n}", []string{"open-inequality:3"}},
		"elements that are granted":      {"ok if every f in input.action.files { endswith(f.path, \".csv\") }", nil},
		"denial of some element":         {metadata("a") + "deny contains f.path if {\n\tsome f in input.action.files\n\tnot endswith(f.path, \".csv\")\n}", nil},
		"inside a comprehension":         {"names := {n | some n in input.action.env_names; not input.action.tool == n}", []string{"open-negation:1"}},
		"in the else":                    {"ok if {\n\tinput.action.tool == \"a\"\n} else := false if {\n\tinput.action.tool != \"b\"\n}", []string{"open-inequality:4"}},
		"denial of what may be missing":  {metadata("a") + "deny contains 1 if input.action.tool != \"a\"", []string{"open-inequality:8"}},
		"denial of what is always there": {metadata("a") + "deny contains 1 if input.action.kind != \"execute\"", nil},
		"denial of a counter":            {metadata("a") + "deny contains 1 if input.context.counters.leases_1h != 0", []string{"open-inequality:8"}},
		"denial turned around":           {metadata("a") + "deny contains 1 if not input.action.tool == \"a\"", nil},
		"denial by a negated builtin":    {metadata("a") + "deny contains 1 if not startswith(input.action.tool, \"a\")", []string{"open-negation:8"}},
		"denial by a negated in":         {metadata("a") + "deny contains 1 if not input.action.tool in {\"a\"}", []string{"open-negation:8"}},
		"denial by a negated function":   {"ok(x) if x == \"a\"\n\n" + metadata("a") + "deny contains 1 if not ok(input.action.tool)", []string{"open-negation:10"}},
		"denial by a negated lookup":     {"known := {\"a\"}\n\n" + metadata("a") + "deny contains 1 if not known[input.action.tool]", []string{"open-negation:10"}},
		"denial by a call in an equal":   {metadata("a") + "deny contains 1 if not lower(input.action.tool) == \"a\"", []string{"open-negation:8"}},
		"denial with a default":          {metadata("a") + "deny contains 1 if not object.get(input, [\"action\", \"tool\"], \"\") in {\"a\"}", nil},
		"denial of a kind not in a set":  {metadata("a") + "deny contains 1 if not input.action.kind in {\"execute\"}", nil},
		"denial by a negated rule":       {"ok if input.action.tool in {\"a\"}\n\n" + metadata("a") + "deny contains 1 if not ok", nil},
		"denial where it is not there":   {metadata("a") + "deny contains 1 if not input.action.tool", nil},
		"head of what may be missing":    {metadata("a") + "deny contains input.action.tool if input.action.kind == \"a\"", []string{"open-head:8"}},
		"head in a call":                 {metadata("a") + "deny contains concat(\" \", [\"x\", input.action.tool]) if input.action.kind == \"a\"", []string{"open-head:8"}},
		"head of data":                   {metadata("a") + "deny contains concat(\" \", data.words) if input.action.kind == \"a\"", []string{"open-head:8"}},
		"head below a rule":              {"t := data.tenants[input.principal.tenant]\n\n" + metadata("a") + "deny contains t.word if input.action.kind == \"a\"", []string{"open-head:10"}},
		"head that a condition has":      {metadata("a") + "deny contains input.action.tool if input.action.tool == \"a\"", nil},
		"head that a negation has":       {metadata("a") + "deny contains input.action.tool if not input.action.tool == \"a\"", []string{"open-head:8"}},
		"head of a variable":             {metadata("a") + "deny contains tool if {\n\ttool := input.action.tool\n\ttool == \"a\"\n}", nil},
		"head with a default":            {metadata("a") + "deny contains object.get(input, [\"action\", \"tool\"], \"\") if input.action.kind == \"a\"", nil},
		"head in a comprehension":        {metadata("a") + "deny contains concat(\" \", {x | some x in data.words}) if input.action.kind == \"a\"", nil},
		"head by an assignment":          {metadata("a") + "deny contains msg if {\n\tinput.action.kind == \"a\"\n\tmsg := concat(\" \", [\"x\", input.action.tool])\n}", []string{"open-head:10"}},
		"head by two assignments":        {metadata("a") + "deny contains msg if {\n\tinput.action.kind == \"a\"\n\ttool := input.action.tool\n\tmsg := concat(\" \", [\"x\", tool])\n}", []string{"open-head:10"}},
		"head that is all there is":      {metadata("a") + "deny contains msg if msg := data.closed", nil},
		"head of a template":             {metadata("a") + "deny contains $\"no {input.action.tool}\" if input.action.kind == \"a\"", nil},
		"denial by data":                 {metadata("a") + "deny contains 1 if not input.action.kind in data.kinds", []string{"open-negation:8"}},
		"denial by data that is there":   {metadata("a") + "deny contains 1 if {\n\tkinds := data.kinds\n\tnot input.action.kind in kinds\n}", nil},
		"denial by data below a copy":    {metadata("a") + "deny contains 1 if {\n\tt := data.tenants[input.principal.tenant]\n\tnot input.action.kind in t.kinds\n}", []string{"open-negation:10"}},
		"denial by data of a tenant":     {"t := data.tenants[input.principal.tenant]\n\n" + metadata("a") + "deny contains 1 if not input.action.kind in t.kinds", []string{"open-negation:10"}},
		"denial by a constant":           {"known := {\"kinds\": {\"a\"}}\n\n" + metadata("a") + "deny contains 1 if not input.action.kind in known.kinds", nil},
		"denial by a rule's path":        {"known contains \"a\"\n\n" + metadata("a") + "deny contains 1 if not input.action.kind in data.execgate.known", nil},
		"denial unlike data":             {metadata("a") + "deny contains 1 if input.action.kind != data.kind", []string{"open-inequality:8"}},
		"denial above a counter":         {metadata("a") + "deny contains 1 if input.context.counters.leases_1h > 5", []string{"open-inequality:8"}},
		"denial of too much":             {metadata("a") + "deny contains 1 if input.action.limits.memory_mib > 5", nil},
		"negated through a call":         {"ok if {\n\tname := lower(input.action.tool)\n\tnot name in {\"evil\"}\n}", []string{"open-negation:3"}},
		"not equal through a call":       {"ok if {\n\tname := lower(input.action.tool)\n\tname != \"evil\"\n}", []string{"open-inequality:3"}},
		"a pattern anywhere":             {"ok if regex.match(\"safe\", input.agent.purpose)", []string{"open-pattern:1"}},
		"a pattern with an open branch":  {"ok if regex.match(\"^a|b$\", input.agent.purpose)", []string{"open-pattern:1"}},
		"a pattern by lines":             {"ok if regex.match(\"(?m)^a$\", input.agent.purpose)", []string{"open-pattern:1"}},
		"a pattern of the whole":         {"ok if regex.match(\"^(?:a|b)$\", input.agent.purpose)", nil},
		"a pattern of every branch":      {"ok if regex.match(`(^a$|\\Ab\\z)`, input.agent.purpose)", nil},
		"a pattern that denies":          {metadata("a") + "deny contains 1 if regex.match(\"evil\", input.agent.purpose)", nil},
		"a pattern of what denies":       {"evil if regex.match(\"evil\", input.agent.purpose)\n\n" + metadata("a") + "deny contains 1 if evil", nil},
		"the end of a host":              {"ok if every to in input.action.network { endswith(to.host, \"example.com\") }", []string{"open-pattern:1"}},
		"the start of a host":            {"ok if every to in input.action.network { startswith(to.host, \"db.\") }", []string{"open-pattern:1"}},
		"hosts below a name":             {"ok if every to in input.action.network { endswith(to.host, \".example.com\") }", nil},
		"the end of a path":              {"ok if every f in input.action.files { endswith(f.path, \"csv\") }", nil},
		"no metadata":                    {"deny contains 1 if input.action.kind == \"a\"", []string{"no-metadata:1"}},
		"no remediation":                 {strings.Replace(metadata("a"), "#   remediation: r\n", "", 1) + "deny contains 1 if input.action.kind == \"a\"", []string{"no-metadata:7"}},
		"the same id": {metadata("a") + "deny contains 1 if input.action.kind == \"a\"\n\n" + metadata("a") + "refused contains 2 if input.action.kind == \"b\"",
			[]string{"same-id:17"}},
		"default allow":           {"default allow := true", []string{"open-default:1"}},
		"constant allow":          {"allowed := true\n\nallow := true", []string{"open-default:1", "open-default:3"}},
		"default deny":            {"default allow := false", nil},
		"default of another name": {"default image_ok := true\n\nimage_ok := false if input.action.image.name == \"a\"", []string{"open-default:1"}},
		"else true":               {"image_ok := false if {\n\tinput.action.image.name == \"a\"\n} else := true", []string{"open-default:3"}},
		"else true of a function": {"ok(x) := false if {\n\tx == \"a\"\n} else := true", []string{"open-default:3"}},
		"default of data":         {"default quiet := true\n\nquiet := false if data.loud", nil},
		"default effect":          {"default effect := \"allow\"\n\neffect := \"deny\" if input.action.kind == \"a\"", []string{"open-default:1"}},
		"default effect deny":     {"default effect := \"deny\"\n\neffect := \"allow\" if input.action.kind == \"a\"", nil},
		"no denial":               {"allow if count(deny) == 0\n\n" + metadata("a") + "deny contains 1 if input.action.kind == \"a\"", []string{"open-default:1"}},
		"no denials at all":       {"allow if {\n\tcount(deny) == 0\n\tdata.lib.violation == set()\n}\n\n" + metadata("a") + "deny contains 1 if input.action.kind == \"a\"", []string{"open-default:1"}},
		"no denial, and granted":  {"allow if {\n\tcount(deny) == 0\n\tinput.action.kind == \"execute\"\n}\n\n" + metadata("a") + "deny contains 1 if input.action.kind == \"a\"", nil},
		"ignored with a reason":   {"# execgate:ignore open-inequality the gateway knows two kinds\nok if input.action.kind != \"session\"", nil},
		"ignored on the line":     {"ok if input.action.kind != \"session\" # execgate:ignore open-inequality", nil},
		"something else ignored":  {"# execgate:ignore open-negation\nok if input.action.kind != \"session\"", []string{"open-inequality:2"}},
		"not formatted":           {"ok if   input.action.kind == \"session\"", []string{"unformatted:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			const decided = "\n\ndecision := {\"effect\": \"deny\", \"reasons\": []}\n"
			text := before + test.rule + decided
			if !strings.Contains(test.rule, "asked") {
				text = strings.Replace(text, "import input.action as asked\n\n", "", 1)
			}
			offset := strings.Count(text[:strings.Index(text, test.rule)], "\n")
			var got []string
			for _, f := range check(t, fstest.MapFS{"p.rego": {Data: []byte(text)}, "p_test.rego": {Data: []byte("package execgate_test\n\ntest_it if 1 == 1\n")}}) {
				switch {
				case f.Code == policy.FindUntried: // it denies everything
				case f.Line == 0:
					t.Errorf("%s has no place: %s", f.Code, f.Message)
				default:
					got = append(got, f.Code+":"+strconv.Itoa(f.Line-offset))
				}
				if f.Message == "" || f.Remedy == "" {
					t.Errorf("%s says %q, %q", f.Code, f.Message, f.Remedy)
				}
			}
			if !slices.Equal(got, test.finds) {
				t.Errorf("found %v, want %v in:\n%s", got, test.finds, text)
			}
		})
	}
}

func metadata(id string) string {
	return "# METADATA\n# custom:\n#   id: " + id + "\n#   code: c\n#   message: m\n#   remediation: r\n# scope: rule\n"
}

// What does not compile is found with its place and with what to do.
func TestBrokenBundlesAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		text         string
		line         int
		says, remedy string
	}{
		"a field that there is not":          {"package execgate\n\ndecision := input.prinicpal", 3, "undefined ref", "policy-input.md"},
		"a builtin that is not for policies": {"package execgate\n\ndecision := http.send({})", 3, "http.send", "builtins"},
		"no condition's keyword":             {"package execgate\n\ndecision { true }", 3, "if", "`if`"},
		"a bracket too few":                  {"package execgate\n\ndecision := {", 3, "", "bracket"},
		"a variable of nothing":              {"package execgate\n\ndecision := x if true", 3, "unsafe", "some"},
		"no decision":                        {"package execgate\n\nother := 1", 0, "no rule defines", "named decision"},
	} {
		t.Run(name, func(t *testing.T) {
			var found *policy.Finding
			for _, f := range check(t, fstest.MapFS{"a/p.rego": {Data: []byte(test.text)}}) {
				if f.Code == policy.FindBroken {
					found = &f
					break
				}
			}
			if found == nil {
				t.Fatal("nothing is found")
			}
			if found.Line != test.line || (test.line > 0 && found.File != "a/p.rego") ||
				!strings.Contains(found.Message, test.says) || !strings.Contains(found.Remedy, test.remedy) {
				t.Errorf("found %+v", *found)
			}
		})
	}
}
