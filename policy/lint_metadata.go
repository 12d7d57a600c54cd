package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

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
