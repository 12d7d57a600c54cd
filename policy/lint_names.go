package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// resolver knows what the names in a rule stand for: imports, and variables that a
// body binds to a part of the input.
type resolver struct {
	module *ast.Module
	asks   map[string]bool
	bound  map[ast.Var]ast.Ref
	copied map[ast.Var]ast.Ref // variables that a body gives a part of anything else
}

// bind reads a module's imports, the assignments of a rule, if any, and what its some
// and every go over.
func (r *resolver) bind(rule *ast.Rule) {
	r.bound, r.copied = make(map[ast.Var]ast.Ref), make(map[ast.Var]ast.Ref)
	for _, imported := range r.module.Imports {
		if path, ok := imported.Path.Value.(ast.Ref); ok && !path.HasPrefix(ast.Ref{ast.VarTerm("rego")}) {
			r.bound[imported.Name()] = path
		}
	}
	if rule == nil {
		return
	}
	walkRule(rule, func(e *ast.Expr) bool {
		if name, domain := elements(e); name != nil {
			if of := r.resolve(domain); of.HasPrefix(ast.InputRootRef) {
				r.bound[*name] = of.Append(ast.VarTerm("_"))
			}
			return false
		}
		operands := e.Operands()
		if e.Negated || len(operands) != 2 || !(e.IsAssignment() || e.Operator().Equal(ast.Equality.Ref())) {
			return false
		}
		name, isVar := operands[0].Value.(ast.Var)
		if !isVar {
			return false
		}
		if ref, ok := operands[1].Value.(ast.Ref); ok {
			r.copied[name] = ref
		}
		walkPlain(operands[1], func(ref ast.Ref) { // itself, or what a call makes it of
			if _, taken := r.bound[name]; taken {
				return
			}
			if of := r.resolve(ref); of.HasPrefix(ast.InputRootRef) {
				r.bound[name] = of
			}
		})
		return false
	})
}

// elements is the variable that stands for each element of what an expression goes
// over by some or every; nil where it does not.
func elements(e *ast.Expr) (name *ast.Var, domain ast.Ref) {
	var value, of *ast.Term
	switch terms := e.Terms.(type) {
	case *ast.Every:
		value, of = terms.Value, terms.Domain
	case *ast.SomeDecl:
		call, ok := terms.Symbols[0].Value.(ast.Call)
		if !ok || len(call) < 3 {
			return nil, nil
		}
		value, of = call[len(call)-2], call[len(call)-1]
	default:
		return nil, nil
	}
	v, isVar := value.Value.(ast.Var)
	ref, isRef := of.Value.(ast.Ref)
	if !isVar || !isRef {
		return nil, nil
	}
	return &v, ref
}

// resolve puts what a reference's first name stands for in its place.
func (r *resolver) resolve(ref ast.Ref) ast.Ref {
	if head, ok := ref[0].Value.(ast.Var); ok {
		if of, ok := r.bound[head]; ok {
			return slices.Concat(of, ref[1:])
		}
	}
	return ref
}

// inputs are the parts of the input that an expression is about, first those that it
// names itself, then the rules through which it depends on the input.
func (r *resolver) inputs(e *ast.Expr) (asked []ast.Ref) {
	var through []ast.Ref
	look := func(ref ast.Ref) {
		switch full := r.resolve(ref); {
		case full.HasPrefix(ast.InputRootRef):
			asked = append(asked, full)
		case r.asks[pathOf(r.module, full)]:
			through = append(through, full)
		}
	}
	operator := e.Operator()
	visit := func(x any) {
		ast.WalkTerms(x, func(t *ast.Term) bool {
			switch value := t.Value.(type) {
			case ast.Ref:
				if !value.Equal(operator) || r.asks[pathOf(r.module, r.resolve(value))] {
					look(value)
				}
			case ast.Var:
				look(ast.Ref{t})
			}
			return false
		})
	}
	visit(e)
	return slices.Concat(asked, through)
}

// pathOf is the path of the rule that a reference names in a module: data.a.b, also
// where it is named by b alone.
func pathOf(module *ast.Module, ref ast.Ref) string {
	ground := ref.GroundPrefix()
	if !ground.HasPrefix(ast.DefaultRootRef) {
		ground = inPackage(module, ref)
	}
	return ground.String()
}

// inPackage is the path of what a module calls by its first name.
func inPackage(module *ast.Module, ref ast.Ref) ast.Ref {
	return module.Package.Path.Append(ast.StringTerm(strings.Trim(ref[0].Value.String(), `"`)))
}

// askers are the paths of rules that depend on the input, directly or by way of
// others.
func askers(modules map[string]*ast.Module) map[string]bool {
	asks := make(map[string]bool)
	for changed := true; changed; {
		changed = false
		for _, module := range modules {
			for _, rule := range module.Rules {
				path := inPackage(module, rule.Head.Ref()).String()
				if !asks[path] && reads(module, rule, asks) {
					asks[path], changed = true, true
				}
			}
		}
	}
	return asks
}

func reads(module *ast.Module, rule *ast.Rule, asks map[string]bool) bool {
	names := resolver{module: module}
	names.bind(nil)
	found := false
	ast.WalkTerms(rule, func(t *ast.Term) bool {
		var ref ast.Ref
		switch value := t.Value.(type) {
		case ast.Ref:
			ref = names.resolve(value)
		case ast.Var:
			ref = names.resolve(ast.Ref{t})
		}
		if ref != nil && (ref.HasPrefix(ast.InputRootRef) || asks[pathOf(module, ref)]) {
			found = true
		}
		return found
	})
	return found
}

// schemaNode is as much of the input's schema as says which fields are always there.
type schemaNode struct {
	Properties map[string]*schemaNode `json:"properties"`
	Required   []string               `json:"required"`
	Items      *schemaNode            `json:"items"`
	// Else is what all kinds but egress have besides. It counts as there: what a rule
	// about programs denies was denied when the execution was asked about.
	Else *schemaNode `json:"else"`
}

// always reports whether a field is there in every object of a node.
func (n *schemaNode) always(field string) bool { return n != nil && slices.Contains(n.Required, field) }

func (n *schemaNode) property(field string) *schemaNode {
	if n == nil {
		return nil
	}
	return n.Properties[field]
}

var inputFields = sync.OnceValue(func() *schemaNode {
	root := new(schemaNode)
	// The schema is part of the program, and the compiler refuses one that is not JSON.
	_ = json.Unmarshal([]byte(InputSchema), root)
	return root
})

// mayBeMissing reports whether the input can lack what a reference names.
func mayBeMissing(ref ast.Ref) bool {
	if !ref.HasPrefix(ast.InputRootRef) {
		return false // a rule: its own conditions are looked at where it stands
	}
	node := inputFields()
	other := node.Else
	for _, step := range ref[1:] {
		if _, isVar := step.Value.(ast.Var); isVar && node != nil && node.Items != nil {
			node, other = node.Items, nil // each element that is there
			continue
		}
		field, ok := step.Value.(ast.String)
		if !ok || !node.always(string(field)) && !other.always(string(field)) {
			return true
		}
		node, other = node.property(string(field)), other.property(string(field))
	}
	return false
}
