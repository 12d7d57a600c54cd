package policy

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// head finds what a denial says of itself and cannot say where it is missing: with the
// head undefined the rule does not hold, whatever its conditions are. What a condition
// reads too, without a negation, is there where the rule holds.
func (l *linter) head(rule *ast.Rule, names *resolver) {
	if rule.Head.Key == nil {
		return
	}
	words, conditions := wordsOf(rule)
	there := names.there(conditions)
	for _, word := range words {
		walkPlain(word, func(ref ast.Ref) {
			full := names.resolve(ref)
			if !l.mayLack(full) || isThere(full, there) {
				return
			}
			l.add(ref[0].Location, FindOpenHead,
				fmt.Sprintf("where %s is missing, this denial does not hold, whatever its conditions say", full),
				"read it with object.get and a default, or in a condition of the rule")
		})
	}
}

// wordsOf are the head of a denial and what is put into variables for it alone, apart
// from its conditions. Where there are no others the variables are conditions.
func wordsOf(rule *ast.Rule) (words []*ast.Term, conditions ast.Body) {
	words = []*ast.Term{rule.Head.Key}
	told := make(map[*ast.Expr]ast.Var)
	for _, e := range rule.Body {
		if operands := e.Operands(); !e.Negated && e.IsAssignment() && len(operands) == 2 {
			if name, ok := operands[0].Value.(ast.Var); ok {
				told[e] = name
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for own, name := range told {
			for _, e := range rule.Body {
				if _, alsoTold := told[e]; e != own && !alsoTold && mentions(e, name) {
					delete(told, own)
					changed = true
					break
				}
			}
		}
	}
	for _, e := range rule.Body {
		if _, ok := told[e]; !ok {
			conditions = append(conditions, e)
		}
	}
	if len(conditions) == 0 {
		return words, rule.Body
	}
	for _, e := range rule.Body {
		if _, ok := told[e]; ok {
			words = append(words, e.Operand(1))
		}
	}
	return words, conditions
}

func mentions(e *ast.Expr, name ast.Var) bool {
	found := false
	ast.WalkVars(e, func(v ast.Var) bool {
		found = found || v.Equal(name)
		return found
	})
	return found
}

// there is what a body reads without a negation: where it holds, it is there.
func (r *resolver) there(body ast.Body) (known []ast.Ref) {
	for _, e := range body {
		if !e.Negated {
			walkPlain(e, func(ref ast.Ref) { known = append(known, r.resolve(ref)) })
		}
	}
	return known
}

func isThere(ref ast.Ref, there []ast.Ref) bool {
	for _, known := range there {
		if known.HasPrefix(ref) {
			return true
		}
	}
	return false
}

// missing is the first part of the input or the data that an expression needs and that
// may not be there; nil where there is none.
func (l *linter) missing(e *ast.Expr, names *resolver, there []ast.Ref) (found ast.Ref) {
	for _, asked := range names.inputs(e) {
		if mayBeMissing(asked) {
			return asked
		}
	}
	walkPlain(e, func(ref ast.Ref) {
		full := names.resolve(ref)
		if name, ok := full[0].Value.(ast.Var); ok && names.copied[name] != nil {
			full = slices.Concat(names.copied[name], full[1:])
		}
		if found == nil && !full.HasPrefix(ast.InputRootRef) && l.mayLack(full) && !isThere(full, there) {
			found = full
		}
	})
	return found
}

// missingCounter is the counter that an expression compares and that may not be known.
func missingCounter(e *ast.Expr, names *resolver) ast.Ref {
	counters := ast.MustParseRef("input.context.counters")
	for _, asked := range names.inputs(e) {
		if asked.HasPrefix(counters) && mayBeMissing(asked) {
			return asked
		}
	}
	return nil
}

// mayLack reports whether there may be nothing where a reference points: a field of
// the input that is not required, anything in the data, and what is below a rule.
func (l *linter) mayLack(ref ast.Ref) bool {
	if ref.HasPrefix(ast.InputRootRef) {
		return mayBeMissing(ref)
	}
	for _, module := range l.modules {
		for _, rule := range module.Rules {
			below := stepsBelow(module, rule, ref)
			if below == nil {
				continue
			}
			return len(below) > 0 && !hasConstant(rule, below)
		}
	}
	return ref.HasPrefix(ast.DefaultRootRef) && len(ref) > 1
}

// stepsBelow are the steps of a reference below a rule, by its name or by its path; nil
// where it is about something else.
func stepsBelow(module *ast.Module, rule *ast.Rule, ref ast.Ref) ast.Ref {
	if ref[0].Value.Compare(rule.Head.Ref()[0].Value) == 0 {
		return ref[1:]
	}
	if path := inPackage(module, rule.Head.Ref()); ref.HasPrefix(path) {
		return ref[len(path):]
	}
	return nil
}

// hasConstant reports whether a rule is an object, written out, that has something at
// the end of steps.
func hasConstant(rule *ast.Rule, steps ast.Ref) bool {
	if rule.Head.Value == nil || !alwaysHolds(rule.Body) {
		return false
	}
	object, ok := rule.Head.Value.Value.(ast.Object)
	if !ok {
		return false
	}
	_, err := object.Find(steps)
	return err == nil
}

// walkPlain calls f for the references that must be there for x to be: those in a
// comprehension, a closure or a template string need not be, and the name of what is
// called is no value.
func walkPlain(x any, f func(ast.Ref)) {
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every, *ast.TemplateString:
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
