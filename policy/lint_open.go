package policy

import (
	"fmt"
	"regexp/syntax"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// defaults finds allows that need nothing to hold, or nothing but that no denial does.
func (l *linter) defaults(rule *ast.Rule, isElse bool) {
	if rule.Head.Value == nil || !l.opens(rule, isElse || rule.Default) {
		return
	}
	switch {
	case rule.Default || alwaysHolds(rule.Body):
		l.add(rule.Location, FindOpenDefault, "what no other rule decides is allowed",
			"deny by default: leave the default out (undefined denies), or make it a denial, and allow under conditions")
	case onlyUndenied(rule.Body):
		l.add(rule.Location, FindOpenDefault, "what no denial names is allowed",
			"say besides what is granted, as all_granted of the shipped policy does: nobody can name all that is to be denied")
	}
}

// opens reports whether a rule says that something is allowed. Where others of its
// name come first, any rule that is true for what is asked says so.
func (l *linter) opens(rule *ast.Rule, last bool) bool {
	ref := rule.Head.Ref()
	switch value := rule.Head.Value.Value.(type) {
	case ast.Boolean:
		return bool(value) && (named(ref[0], "allow", "is_allow", "permit", "grant", "authori") ||
			last && (len(rule.Head.Args) > 0 || l.asks[inPackage(rule.Module, ref).String()]))
	case ast.String:
		return string(value) != string(execution.EffectDeny) && named(ref[len(ref)-1], "effect") ||
			last && string(value) == string(execution.EffectAllow)
	}
	return ref.String() == "decision" && l.allows(rule.Head.Value, 0)
}

// maxLookups bounds how far a decision is followed through the rules that it is made of.
const maxLookups = 4

// allows reports whether a value has an effect that is no denial, or is made of one.
func (l *linter) allows(value *ast.Term, depth int) bool {
	if depth > maxLookups {
		return false
	}
	switch v := value.Value.(type) {
	case ast.Object:
		effect := v.Get(ast.StringTerm("effect"))
		return effect != nil && !effect.Equal(ast.StringTerm(string(execution.EffectDeny)))
	case ast.Call:
		for _, operand := range v[1:] {
			if array, ok := operand.Value.(*ast.Array); ok { // of object.union_n
				for i := range array.Len() {
					if l.allows(array.Elem(i), depth+1) {
						return !denies(v)
					}
				}
			}
			if l.allows(operand, depth+1) {
				return !denies(v)
			}
		}
	case ast.Var:
		for _, module := range l.modules {
			for _, rule := range module.Rules {
				if rule.Head.Ref()[0].Value.Compare(v) == 0 && rule.Head.Value != nil && alwaysHolds(rule.Body) && l.allows(rule.Head.Value, depth+1) {
					return true
				}
			}
		}
	}
	return false
}

// denies reports whether a call puts a denial over what it is given.
func denies(call ast.Call) bool {
	found := false
	ast.WalkTerms(call, func(t *ast.Term) bool {
		if object, ok := t.Value.(ast.Object); ok {
			effect := object.Get(ast.StringTerm("effect"))
			found = found || effect != nil && effect.Equal(ast.StringTerm(string(execution.EffectDeny)))
		}
		return found
	})
	return found
}

// onlyUndenied reports whether a body asks for nothing but that sets of denials are
// empty.
func onlyUndenied(body ast.Body) bool {
	for _, e := range body {
		operands := e.Operands()
		if e.Negated || !isEquality(e) || len(operands) != 2 || !emptyDenials(operands[0], operands[1]) && !emptyDenials(operands[1], operands[0]) {
			return false
		}
	}
	return true
}

func emptyDenials(set, empty *ast.Term) bool {
	if call, ok := set.Value.(ast.Call); ok {
		if len(call) != 2 || call[0].Value.String() != ast.Count.Name || !empty.Equal(ast.IntNumberTerm(0)) {
			return false
		}
		set = call[1]
	} else if none, ok := empty.Value.(ast.Set); !ok || none.Len() > 0 {
		return false
	}
	if ref, ok := set.Value.(ast.Ref); ok {
		set = ref[len(ref)-1]
	}
	return isForbidding(set)
}

// patterns finds conditions of an allow that hold for more than they look like: a part
// of a text stands for the whole.
func (l *linter) patterns(rule *ast.Rule, names *resolver) {
	if l.against[inPackage(rule.Module, rule.Head.Ref()).String()] {
		return
	}
	walkRule(rule, func(e *ast.Expr) bool {
		if e.Negated {
			return true
		}
		ast.WalkTerms(e, func(t *ast.Term) bool {
			if call, ok := t.Value.(ast.Call); ok {
				l.pattern(e, call, names)
			}
			return false
		})
		if terms, ok := e.Terms.([]*ast.Term); ok && len(terms) > 0 {
			l.pattern(e, ast.Call(terms), names)
		}
		return false
	})
}

func (l *linter) pattern(e *ast.Expr, call ast.Call, names *resolver) {
	if len(call) != 3 {
		return
	}
	operator := call[0].Value.String()
	if operator == ast.RegexMatch.Name {
		pattern, constant := call[1].Value.(ast.String)
		if asked := names.inputs(ast.NewExpr(call[2])); constant && len(asked) > 0 && !wholeText(string(pattern)) {
			l.add(e.Location, FindOpenPattern,
				fmt.Sprintf("it holds wherever the pattern stands in %s", asked[0]),
				"begin the pattern with ^ and end it with $, each branch of it: `^(?:a|b)$`")
		}
		return
	}
	part, constant := call[2].Value.(ast.String)
	if !constant || operator == ast.EndsWith.Name && strings.HasPrefix(string(part), ".") {
		return
	}
	switch operator {
	case ast.EndsWith.Name, ast.StartsWith.Name, ast.Contains.Name:
	default:
		return
	}
	for _, asked := range names.inputs(ast.NewExpr(call[1])) {
		if asked[len(asked)-1].Equal(ast.StringTerm("host")) {
			l.add(e.Location, FindOpenPattern,
				fmt.Sprintf("hosts of others have %s in their names too", part),
				"compare the whole name, `==`, or names below one by its dot: `endswith(host, \".example.com\")`")
			return
		}
	}
}

// wholeText reports whether a pattern is for the whole of a text.
func wholeText(pattern string) bool {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return true // which the compiler, or the evaluation, says
	}
	return anchored(parsed, syntax.OpBeginText, func(subs []*syntax.Regexp) *syntax.Regexp { return subs[0] }) &&
		anchored(parsed, syntax.OpEndText, func(subs []*syntax.Regexp) *syntax.Regexp { return subs[len(subs)-1] })
}

func anchored(r *syntax.Regexp, by syntax.Op, outer func([]*syntax.Regexp) *syntax.Regexp) bool {
	switch r.Op {
	case by:
		return true
	case syntax.OpConcat, syntax.OpCapture:
		return anchored(outer(r.Sub), by, outer)
	case syntax.OpAlternate:
		for _, branch := range r.Sub {
			if !anchored(branch, by, outer) {
				return false
			}
		}
		return true
	}
	return false
}

// against are the paths of the rules that denials ask for, or that such rules do: what
// makes one of these hold denies.
func against(modules map[string]*ast.Module) map[string]bool {
	found := make(map[string]bool)
	for changed := true; changed; {
		changed = false
		for _, module := range modules {
			names := resolver{module: module}
			names.bind(nil)
			for _, rule := range module.Rules {
				if !forbids(rule) && !found[inPackage(module, rule.Head.Ref()).String()] {
					continue
				}
				walkRule(rule, func(e *ast.Expr) bool {
					if e.Negated {
						return true
					}
					ast.WalkTerms(e, func(t *ast.Term) bool {
						ref, ok := t.Value.(ast.Ref)
						if name, isVar := t.Value.(ast.Var); isVar {
							ref, ok = ast.Ref{ast.NewTerm(name)}, true
						}
						if path := ""; ok {
							if path = pathOf(module, names.resolve(ref)); !found[path] {
								found[path], changed = true, true
							}
						}
						return false
					})
					return false
				})
			}
		}
	}
	return found
}
