package policy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// lint looks for what compiles and should nevertheless be changed.
func lint(modules map[string]*ast.Module, files Files) []Finding {
	l := &linter{files: files, modules: modules, asks: askers(modules), against: against(modules), ids: make(map[string]string), findings: []Finding{}}
	tests := false
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		l.formatted(name)
		if strings.HasSuffix(name, testSuffix) {
			tests = true
			continue
		}
		l.module(modules[name])
	}
	if !tests {
		l.findings = append(l.findings, Finding{
			Code: FindNoTests, Message: "there are no tests (files that end in " + testSuffix + ")",
			Remedy: "write down what has to be allowed and what denied; `execgate policy init` writes some to start from",
		})
	}
	return l.findings
}

type linter struct {
	files    Files
	modules  map[string]*ast.Module
	asks     map[string]bool   // paths of rules that depend on the input
	against  map[string]bool   // paths of rules that a denial is made of
	ids      map[string]string // where a rule's id is, by the id
	findings []Finding
}

// add adds a finding, unless a comment on its line or the one before says
// `execgate:ignore CODE`.
func (l *linter) add(at *ast.Location, code, message, remedy string) {
	lines := bytes.Split(l.files[at.File], []byte("\n"))
	for _, row := range []int{at.Row - 1, at.Row} {
		if row < 1 || row > len(lines) {
			continue
		}
		if _, ignored, ok := bytes.Cut(lines[row-1], []byte("# execgate:ignore ")); ok && strings.HasPrefix(string(ignored)+" ", code+" ") {
			return
		}
	}
	l.findings = append(l.findings, Finding{Code: code, File: at.File, Line: at.Row, Message: message, Remedy: remedy})
}

func (l *linter) formatted(name string) {
	text, err := format.SourceWithOpts(name, l.files[name], format.Opts{RegoVersion: ast.RegoV1})
	if err != nil || bytes.Equal(text, l.files[name]) {
		return // what does not parse is found by who compiles it
	}
	was, is := bytes.Split(l.files[name], []byte("\n")), bytes.Split(text, []byte("\n"))
	row := 0
	for row < min(len(was), len(is))-1 && bytes.Equal(was[row], is[row]) {
		row++
	}
	l.add(&ast.Location{File: name, Row: row + 1}, FindUnformatted, "it is not in the form that opa fmt gives it",
		"run `opa fmt -w "+name+"`")
}

func (l *linter) module(module *ast.Module) {
	annotated := annotationsOf(module)
	for _, rule := range module.Rules {
		names := resolver{module: module, asks: l.asks}
		for r := rule; r != nil; r = r.Else {
			names.bind(r)
			if forbids(r) {
				l.denial(r, &names)
				l.head(r, &names)
			} else {
				l.defaults(r, r != rule)
				l.permission(r, &names)
			}
		}
		l.metadata(rule, annotated[rule])
	}
}

// forbids reports whether a rule is one of those that collect what stands against a
// request, or what holds it back. They go by their names, as the names of sets are all that tells them apart.
func forbids(rule *ast.Rule) bool { return isForbidding(rule.Head.Ref()[0]) }

func isForbidding(name *ast.Term) bool {
	return named(name, "deny", "denied", "denial", "refuse", "violation", "forbid", "reject", "held",
		"block", "prohibit", "disallow", "banned")
}

// named reports whether a name begins with one of words.
func named(name *ast.Term, words ...string) bool {
	text := strings.TrimLeft(strings.Trim(name.Value.String(), `"`), "_")
	return slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(text, word) })
}

func alwaysHolds(body ast.Body) bool {
	return len(body) == 1 && body[0].Equal(ast.NewExpr(ast.BooleanTerm(true)))
}

// permission finds conditions of an allow that what is missing, or new, meets.
func (l *linter) permission(rule *ast.Rule, names *resolver) {
	l.patterns(rule, names)
	walkRule(rule, func(e *ast.Expr) bool {
		switch asked := names.inputs(e); {
		case e.Negated && len(asked) > 0:
			l.add(e.Location, FindOpenNegation,
				fmt.Sprintf("the condition holds for everything but what is named, and where %s is missing", asked[0]),
				"say what is granted (`x in granted`), or put what is forbidden into a rule deny, which then has to hold")
			return true
		case e.Operator().Equal(ast.NotEqual.Ref()) && len(asked) > 0 && !isPresence(e):
			l.add(e.Location, FindOpenInequality,
				fmt.Sprintf("everything passes but one value of %s", asked[0]),
				"say what is granted: `==`, or `in` a set of values")
		}
		return false
	})
}

// denial finds conditions of a denial that what is missing escapes.
func (l *linter) denial(rule *ast.Rule, names *resolver) {
	walkRule(rule, func(e *ast.Expr) bool {
		there := names.there(slices.DeleteFunc(slices.Clone(rule.Body), func(other *ast.Expr) bool { return other == e }))
		if e.Negated {
			l.negatedCall(e, names, there)
			return true
		}
		opposite, ok := opposites[e.Operator().String()]
		if !ok {
			return false
		}
		var asked ast.Ref
		if e.Operator().Equal(ast.NotEqual.Ref()) {
			asked = l.missing(e, names, there)
		} else {
			asked = missingCounter(e, names)
		}
		if asked != nil {
			turned := *e
			turned.Terms = append([]*ast.Term{ast.NewTerm(opposite)}, e.Operands()...)
			l.add(e.Location, FindOpenInequality,
				fmt.Sprintf("where %s is missing, this denial does not hold", asked),
				"turn it around: `not "+turned.String()+"` holds also where there is nothing")
		}
		return false
	})
}

// opposites are the comparisons that hold where those that they stand under do not.
var opposites = map[string]ast.Ref{
	"neq": ast.Equal.Ref(), "gt": ast.LessThanEq.Ref(), "gte": ast.LessThan.Ref(), "lt": ast.GreaterThanEq.Ref(), "lte": ast.GreaterThan.Ref(),
}

// negatedCall finds what a negation does not cover: the compiler reads the arguments
// of a call, and the steps of a reference, before the negation, so that one of them
// which is missing leaves the whole condition undefined. A comparison by == or of a
// plain reference has none of these.
func (l *linter) negatedCall(e *ast.Expr, names *resolver, there []ast.Ref) {
	read := func(term *ast.Term) {
		if asked := l.missing(ast.NewExpr(term), names, there); asked != nil {
			l.add(e.Location, FindOpenNegation,
				fmt.Sprintf("where %s is missing, this denial does not hold: what a negated call or lookup is given is read before the negation", asked),
				"put the condition into a rule of its own and negate that (`not known`), or read the field with object.get and a default")
		}
	}
	switch operands := e.Operands(); {
	case !e.IsCall():
		steps(e.Terms, read)
	case isEquality(e):
		for _, operand := range operands {
			if _, plain := operand.Value.(ast.Ref); plain {
				steps(operand, read)
			} else {
				read(operand)
			}
		}
	default:
		for _, operand := range operands {
			read(operand)
		}
	}
}

// steps calls f for what a reference is looked up by: x in known[x].
func steps(of any, f func(*ast.Term)) {
	term, ok := of.(*ast.Term)
	if !ok {
		return
	}
	if ref, ok := term.Value.(ast.Ref); ok {
		for _, step := range ref[1:] {
			f(step)
		}
	}
}

func isEquality(e *ast.Expr) bool {
	return e.Operator().Equal(ast.Equality.Ref()) || e.Operator().Equal(ast.Equal.Ref())
}

// walkRule calls f for the expressions of a rule, but not for those of its else.
func walkRule(rule *ast.Rule, f func(*ast.Expr) bool) {
	ast.WalkExprs(rule.Head, f)
	ast.WalkExprs(rule.Body, f)
}

// isPresence reports whether a value is compared with the empty one: that asks
// whether it is there.
func isPresence(e *ast.Expr) bool {
	for _, operand := range e.Operands() {
		switch value := operand.Value.(type) {
		case ast.Null:
			return true
		case ast.String:
			return value == ""
		case *ast.Array:
			return value.Len() == 0
		case ast.Object:
			return value.Len() == 0
		case ast.Set:
			return value.Len() == 0
		}
	}
	return false
}
