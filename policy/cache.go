package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ruleCache keeps, for one evaluation and no longer, what rules have evaluated to.
// Nearly all of them are named data.PACKAGE.RULE, and the evaluator's own cache,
// which keeps any reference as a path through hash tables, spent a tenth of an
// evaluation on those. A policy has a few dozen, so a list does. What has another
// name, and what is evaluated under a "with", goes to the evaluator's own.
type ruleCache struct {
	rules []cachedRule
	other topdown.VirtualCache // nil until it is needed
	depth int                  // of "with" in "with"
}

type cachedRule struct {
	pack, name ast.String
	value      *ast.Term // nil: undefined
}

func newRuleCache() *ruleCache { return &ruleCache{rules: make([]cachedRule, 0, 32)} }

// Push implements topdown.VirtualCache.
func (c *ruleCache) Push() {
	c.depth++
	c.others().Push()
}

// Pop implements topdown.VirtualCache.
func (c *ruleCache) Pop() {
	c.depth--
	c.others().Pop()
}

// Get implements topdown.VirtualCache.
func (c *ruleCache) Get(ref ast.Ref) (value *ast.Term, undefined bool) {
	pack, name, ok := c.key(ref)
	if !ok {
		return c.others().Get(ref)
	}
	if known := c.find(pack, name); known != nil {
		return known.value, known.value == nil
	}
	return nil, false
}

// Put implements topdown.VirtualCache.
func (c *ruleCache) Put(ref ast.Ref, value *ast.Term) {
	pack, name, ok := c.key(ref)
	if !ok {
		c.others().Put(ref, value)
		return
	}
	if known := c.find(pack, name); known != nil {
		known.value = value
		return
	}
	c.rules = append(c.rules, cachedRule{pack, name, value})
}

// Keys implements topdown.VirtualCache.
func (c *ruleCache) Keys() []ast.Ref {
	keys := c.others().Keys()
	if c.depth > 0 {
		return keys
	}
	for _, r := range c.rules {
		if r.value != nil {
			keys = append(keys, ast.Ref{ast.DefaultRootDocument, ast.NewTerm(r.pack), ast.NewTerm(r.name)})
		}
	}
	return keys
}

func (c *ruleCache) others() topdown.VirtualCache {
	if c.other == nil {
		c.other = topdown.NewVirtualCache()
	}
	return c.other
}

// key takes data.PACKAGE.RULE apart. Rules are always below data.
func (c *ruleCache) key(ref ast.Ref) (pack, name ast.String, ok bool) {
	if c.depth > 0 || len(ref) != 3 {
		return "", "", false
	}
	pack, isPack := ref[1].Value.(ast.String)
	name, isName := ref[2].Value.(ast.String)
	return pack, name, isPack && isName
}

func (c *ruleCache) find(pack, name ast.String) *cachedRule {
	for i := range c.rules {
		if r := &c.rules[i]; r.name == name && r.pack == pack {
			return r
		}
	}
	return nil
}

// dataCache answers what the evaluator has read of data before by the data itself,
// which are values of its own already and never change. So its store is asked for
// only what is not there.
type dataCache struct{ data ast.Object }

// Get implements topdown.BaseCache. All of data is for the store to put together.
func (c dataCache) Get(ref ast.Ref) ast.Value {
	if len(ref) < 2 {
		return nil
	}
	value, err := c.data.Find(ref[1:])
	if err != nil {
		return nil
	}
	return value
}

// Put implements topdown.BaseCache.
func (dataCache) Put(ast.Ref, ast.Value) {}
