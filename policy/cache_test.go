package policy_test

import (
	"testing"
	"testing/fstest"
)

// What a rule evaluated to holds for one question, one package and one "with".
func TestWhatRulesEvaluateToIsKeptApart(t *testing.T) {
	const grant = `{"effect": "deny", "reasons": [{"code": code, "message": "m", "rule": "r", "remediation": "d"}]}`
	for name, test := range map[string]struct{ rules, want string }{
		"a with does not see what was evaluated before it": {
			`asked := input.action.language
inside := x if x := asked with input.action.language as "other"
code := concat(" ", [asked, inside, asked])`,
			"python other python",
		},
		"nor is its own kept after it": {
			`asked := input.action.language
inside := x if x := asked with input.action.language as "other"
code := concat(" ", [inside, asked, inside])`,
			"other python other",
		},
		"a with in a with has one of its own": {
			`asked := input.action.language
inner := x if x := asked with input.action.language as "inner"
joined := concat(" ", [asked, inner, asked])
outer := x if x := joined with input.action.language as "outer"
code := concat(" ", [outer, asked])`,
			"outer inner outer python",
		},
		"a with of data does not reach outside": {
			`known := data.known
inside := x if x := known with data.known as "other"
code := concat(" ", [known, inside, known])`,
			"data other data",
		},
		"undefined stays so, and only where it is": {
			`missing := input.action.tool
known := "was not undefined" if missing
known := "undefined" if not missing
inside := x if x := missing with input.action.tool as "defined"
code := concat(" ", [known, inside, known])`,
			"undefined defined undefined",
		},
		"a function is asked for each argument": {
			`twice(x) := concat("", [x, x])
code := concat(" ", [twice("a"), twice("b"), twice("a")])`,
			"aa bb aa",
		},
		"a name of several parts is a rule of its own": {
			`a.b := "ab"
a.c := "ac"
code := concat(" ", [a.b, a.c, data.execgate.a.b])`,
			"ab ac ab",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := rego("package execgate\n\n" + test.rules + "\ndecision := " + grant)
			bundle.Files.(fstest.MapFS)["data.json"] = &fstest.MapFile{Data: []byte(`{"known": "data"}`)}
			wantDenied(t, decide(t, bundle, question()), test.want)
		})
	}
}

func TestRulesOfTheSameNameInTwoPackagesAreTwo(t *testing.T) {
	bundle := rego(`package execgate

name := "execgate"

decision := {"effect": "deny", "reasons": [{"code": concat(" ", [name, data.other.name, name]), "message": "m", "rule": "r", "remediation": "d"}]}`)
	bundle.Files.(fstest.MapFS)["other.rego"] = &fstest.MapFile{Data: []byte("package other\n\nname := \"other\"")}
	wantDenied(t, decide(t, bundle, question()), "execgate other execgate")
}

func TestNothingIsKeptFromOneQuestionToTheNext(t *testing.T) {
	engine := newEngine(t, unhurried, rego(`package execgate

asked := input.action.language

decision := {"effect": "deny", "reasons": [{"code": asked, "message": "m", "rule": "r", "remediation": "d"}]}`))
	for _, language := range []string{"python", "bash", "python"} {
		q := question()
		q.Request.Language = language
		wantDenied(t, engine.Decide(t.Context(), q), language)
	}
}
