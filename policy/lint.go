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
	l := &linter{files: files, modules: modules, asks: askers(modules), ids: make(map[string]string), findings: []Finding{}}
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
			l.defaults(r)
			if forbids(r) {
				l.denial(r, &names)
				l.head(r, &names)
			} else {
				l.permission(r, &names)
			}
		}
		l.metadata(rule, annotated[rule])
	}
}

// forbids reports whether a rule is one of those that collect what stands against a
// request, or what holds it back. They go by their names, as the names of sets are all that tells them apart.
func forbids(rule *ast.Rule) bool {
	name := strings.TrimLeft(rule.Head.Ref()[0].Value.String(), "_")
	for _, word := range []string{"deny", "denied", "denial", "refuse", "violation", "forbid", "reject", "held"} {
		if strings.HasPrefix(name, word) {
			return true
		}
	}
	return false
}

// defaults finds allows that need nothing to hold.
func (l *linter) defaults(rule *ast.Rule) {
	if rule.Head.Value == nil || !(rule.Default || alwaysHolds(rule.Body)) || forbids(rule) {
		return
	}
	allows := false
	switch value := rule.Head.Value.Value.(type) {
	case ast.Boolean:
		allows = bool(value) && strings.HasPrefix(rule.Head.Ref()[0].Value.String(), "allow")
	case ast.Object:
		effect := value.Get(ast.StringTerm("effect"))
		isDecision := rule.Head.Ref().String() == "decision"
		allows = isDecision && effect != nil && !effect.Equal(ast.StringTerm("deny"))
	}
	if allows {
		l.add(rule.Location, FindOpenDefault, "what no other rule decides is allowed",
			"deny by default: leave the default out (undefined denies), or make it a denial, and allow under conditions")
	}
}

func alwaysHolds(body ast.Body) bool {
	return len(body) == 1 && body[0].Equal(ast.NewExpr(ast.BooleanTerm(true)))
}

// permission finds conditions of an allow that what is missing, or new, meets.
func (l *linter) permission(rule *ast.Rule, names *resolver) {
	names.bind(rule.Body)
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
	names.bind(rule.Body)
	walkRule(rule, func(e *ast.Expr) bool {
		if e.Negated {
			l.negatedCall(e, names)
			return true
		}
		if !e.Operator().Equal(ast.NotEqual.Ref()) {
			return false
		}
		for _, asked := range names.inputs(e) {
			if mayBeMissing(asked) {
				l.add(e.Location, FindOpenInequality,
					fmt.Sprintf("where %s is missing, this denial does not hold", asked),
					"turn it around: `not "+strings.Replace(e.String(), "neq(", "equal(", 1)+"` holds also where the field is missing")
				break
			}
		}
		return false
	})
}

// negatedCall finds what a negation does not cover: the compiler reads the arguments
// of a call, and the steps of a reference, before the negation, so that one of them
// which is missing leaves the whole condition undefined. A comparison by == or of a
// plain reference has none of these.
func (l *linter) negatedCall(e *ast.Expr, names *resolver) {
	read := func(term *ast.Term) {
		for _, asked := range names.inputs(ast.NewExpr(term)) {
			if mayBeMissing(asked) {
				l.add(e.Location, FindOpenNegation,
					fmt.Sprintf("where %s is missing, this denial does not hold: what a negated call or lookup is given is read before the negation", asked),
					"put the condition into a rule of its own and negate that (`not known`), or read the field with object.get and a default")
				return
			}
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

// metadata wants of each rule that denies what a caller is told.
func (l *linter) metadata(rule *ast.Rule, a *ast.Annotations) {
	id := ""
	if a != nil {
		id, _ = a.Custom["id"].(string)
	}
	if id != "" {
		if other, taken := l.ids[id]; taken {
			l.add(rule.Location, FindSameID, fmt.Sprintf("the rule's id %s is also that of the one in %s", id, other),
				"give each rule an id of its own: records, modes and replays go by it")
		}
		l.ids[id] = fmt.Sprintf("%s:%d", rule.Location.File, rule.Location.Row)
	}
	if !forbids(rule) || rule.Head.Key == nil {
		return
	}
	var missing []string
	for _, key := range []string{"id", "code", "message", "remediation"} {
		if a == nil || !filled(a.Custom[key]) {
			missing = append(missing, "custom."+key)
		}
	}
	if len(missing) > 0 {
		l.add(rule.Location, FindNoMetadata, "a rule that denies has no "+strings.Join(missing, ", "),
			"put a METADATA block before it: callers are told the code, the message and the remediation, and records name the id")
	}
}

func filled(v any) bool {
	text, ok := v.(string)
	return ok && text != ""
}

// annotationsOf are the annotations of rules.
func annotationsOf(module *ast.Module) map[*ast.Rule]*ast.Annotations {
	found := make(map[*ast.Rule]*ast.Annotations)
	for _, rule := range module.Rules {
		for _, a := range rule.Annotations {
			found[rule] = a
		}
	}
	return found
}
