package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// head finds what a denial says of itself and cannot say where it is missing: with the
// head undefined the rule does not hold, whatever its conditions are. What a condition
// reads too, without a negation, is there where the rule holds.
func (l *linter) head(rule *ast.Rule, names *resolver) {
	if rule.Head.Key == nil {
		return
	}
	names.bind(rule.Body)
	var there []ast.Ref
	for _, e := range rule.Body {
		if e.Negated {
			continue
		}
		walkPlain(e, func(ref ast.Ref) { there = append(there, names.resolve(ref)) })
	}
	walkPlain(rule.Head.Key, func(ref ast.Ref) {
		full := names.resolve(ref)
		if !l.mayLack(full, names) {
			return
		}
		for _, known := range there {
			if known.HasPrefix(full) {
				return
			}
		}
		l.add(ref[0].Location, FindOpenHead,
			fmt.Sprintf("where %s is missing, this denial does not hold, whatever its conditions say", full),
			"read it with object.get and a default, or in a condition of the rule")
	})
}

// mayLack reports whether there may be nothing where a reference points: a field of
// the input that is not required, anything in the data, and what is below a rule.
func (l *linter) mayLack(ref ast.Ref, names *resolver) bool {
	switch {
	case ref.HasPrefix(ast.InputRootRef):
		return mayBeMissing(ref)
	case ref.HasPrefix(ast.DefaultRootRef):
		return len(ref) > 1
	case len(ref) < 2:
		return false
	}
	name, isVar := ref[0].Value.(ast.Var)
	if !isVar {
		return false
	}
	for _, module := range l.modules {
		for _, rule := range module.Rules {
			if rule.Head.Ref()[0].Value.Compare(name) == 0 {
				return true
			}
		}
	}
	return false
}

// walkPlain calls f for the references that must be there for x to be: those in a
// comprehension or a closure of their own need not be, and the name of what is called
// is no value.
func walkPlain(x any, f func(ast.Ref)) {
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case ast.Call:
			for _, operand := range x[1:] {
				visitor.Walk(operand)
			}
			return true
		case *ast.Expr:
			if !x.IsCall() {
				return false
			}
			for _, operand := range x.Operands() {
				visitor.Walk(operand)
			}
			return true
		case ast.Ref:
			f(x)
			for _, step := range x[1:] {
				visitor.Walk(step)
			}
			return true
		}
		return false
	})
	visitor.Walk(x)
}
