package policy

import (
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// mode says what comes of a rule that denies, or that requires an approval.
type mode string

const (
	modeEnforce mode = "enforce" // what the rule says; the mode of rules that have none
	modeWarn    mode = "warn"    // the caller is told, and it is recorded
	modeShadow  mode = "shadow"  // it is recorded
)

// modes are the modes of rules by their ids, without those that are enforced.
type modes map[string]mode

// modesOf reads the modes from the metadata of rules: custom.mode beside custom.id.
func modesOf(compiler *ast.Compiler) (modes, error) {
	found := make(modes)
	var problems []string
	complain := func(a *ast.AnnotationsRef, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s:%d: %s", a.Location.File, a.Location.Row, fmt.Sprintf(format, args...)))
	}
	for _, a := range compiler.GetAnnotationSet().Flatten() {
		if a.Annotations == nil {
			continue
		}
		value, given := a.Annotations.Custom["mode"]
		id, named := a.Annotations.Custom["id"].(string)
		if !given && !named {
			continue
		}
		is := modeEnforce
		if given {
			text, _ := value.(string)
			is = mode(text)
		}
		old, seen := found[id]
		switch {
		case !slices.Contains([]mode{modeEnforce, modeWarn, modeShadow}, is):
			complain(a, "custom.mode is %v: it must be enforce, warn or shadow", value)
		case !named || id == "":
			complain(a, "custom.mode needs custom.id beside it: a mode goes by the id of the rule")
		case seen && old != is:
			complain(a, "the rule id %q has the mode %s here and %s elsewhere: give one of them another id", id, is, old)
		default:
			found[id] = is
		}
	}
	if len(problems) > 0 {
		return nil, &BundleError{Problems: problems}
	}
	for id, is := range found {
		if is == modeEnforce {
			delete(found, id)
		}
	}
	return found, nil
}

// apply takes the reasons of rules that are not enforced out of a document.
// Where no other reason is left, they alone stood against an allow, or in a denial
// that names an approval against that, which then needs the rest of the document like
// any other: a document that gives no reason is what it says.
func (m modes) apply(d *document) {
	if len(m) == 0 || len(d.reasons) == 0 {
		return
	}
	var enforced []execution.Reason
	for _, r := range d.reasons {
		switch m[r.Rule] {
		case modeWarn:
			d.warnings = append(d.warnings, r)
		case modeShadow:
			d.shadowed = append(d.shadowed, r)
		default:
			enforced = append(enforced, r)
		}
	}
	if len(enforced) == len(d.reasons) {
		return
	}
	d.reasons = enforced
	switch {
	case len(enforced) > 0 || d.effect == execution.EffectAllow:
	case d.effect == execution.EffectDeny && d.approval != nil:
		d.effect, d.lifted = execution.EffectRequireApproval, true
	default:
		d.effect, d.lifted = execution.EffectAllow, true
	}
}
