package policy

import (
	"fmt"
	"maps"
	"slices"

	"github.com/execgate/execgate/execution"
)

// narrowed is what both layers grant: the stricter effect, the smaller quantity,
// the qualities of both, the obligations of either. A field that by does not
// have leaves what d grants. Nothing that d does not grant is in the result,
// whatever by says; a property test holds this. What would be denied without by is
// denied here: by must not fill in what d leaves out, or take away what is wrong with
// d. honoured is that of enforce.
func (d document) narrowed(by document, honoured []string) document {
	if d.effect != execution.EffectDeny {
		if flaw := d.flaw(honoured); flaw != nil {
			d.refuse(*flaw)
		}
	}
	d.narrowEffect(by)
	if by.given.has(givenLimits) {
		d.limits = d.limits.Min(by.limits)
	}
	for name, what := range by.onExceed {
		if what == exceedDeny {
			d.onExceed = with(d.onExceed, name, what)
		}
	}
	if by.given.has(givenImage) {
		d.digests = both(d.digests, by.digests)
	}
	if by.given.has(givenRuntime) && by.runtime != d.runtime && d.effect != execution.EffectDeny {
		d.refuse(execution.Reason{
			Code: codeRuntimeNotGranted, Rule: ruleRuntime,
			Message:     fmt.Sprintf("No runtime is granted: the organisation's policy says %.100q and the tenant's %.100q.", d.runtime, by.runtime),
			Remediation: "The author of the tenant's policy has to grant the organisation's runtime, or leave the field out.",
		})
	}
	if by.given.has(givenEnv) {
		d.envAllow = both(d.envAllow, by.envAllow)
	}
	if by.given.has(givenOptionalControls) {
		d.optionalControls = both(d.optionalControls, by.optionalControls)
	}
	if by.given.has(givenNetwork) {
		d.network = d.network.narrowed(by.network)
	}
	if by.given.has(givenCredentials) {
		d.credentials = narrowedCredentials(d.credentials, by.credentials)
	}
	if by.given.has(givenSession) {
		d.session = narrowedSession(d.session, by.session)
	}
	if by.given.has(givenReuse) && by.reuse != reusePrincipal {
		d.reuse = reuseNever
	}
	d.obligations = eitherObligation(d.obligations, by.obligations)
	d.advice = eitherObligation(d.advice, by.advice)
	d.warnings = eitherReason(d.warnings, by.warnings)
	d.shadowed = eitherReason(d.shadowed, by.shadowed)
	return d
}

// narrowEffect takes the stricter effect, with the reasons of the layers that
// wanted it.
func (d *document) narrowEffect(by document) {
	switch {
	case d.effect == execution.EffectDeny && by.effect == execution.EffectDeny:
		d.reasons = eitherReason(d.denials(), by.denials())
	case d.effect == execution.EffectDeny:
	case by.effect == execution.EffectDeny:
		d.effect, d.reasons = execution.EffectDeny, by.denials()
	case by.effect == execution.EffectRequireApproval && d.effect == execution.EffectRequireApproval:
		d.approval = d.approval.narrowed(by.approval)
		d.reasons = eitherReason(d.reasons, by.reasons)
	case by.effect == execution.EffectRequireApproval:
		d.effect, d.approval = by.effect, by.approval
		d.reasons = eitherReason(d.reasons, by.reasons)
	default:
		d.reasons = eitherReason(d.reasons, by.reasons)
	}
}

// narrowed are the terms that satisfy both: the earlier end, and the roles that
// may approve for either layer.
func (a *approval) narrowed(by *approval) *approval {
	if a == nil || by == nil {
		return nil // which is incomplete, and denies
	}
	return &approval{expiresS: min(a.expiresS, by.expiresS), roles: both(a.roles, by.roles)}
}

func narrowedSession(a, b *execution.SessionGrant) *execution.SessionGrant {
	if a == nil || b == nil {
		return nil
	}
	return &execution.SessionGrant{
		IdleS: min(a.IdleS, b.IdleS), AbsoluteS: min(a.AbsoluteS, b.AbsoluteS), Max: min(a.Max, b.Max),
	}
}

// both are the elements of a that are in b too.
func both[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}

// either are the elements of a, and those of b that are not in a. Lists may be long,
// and are a tenant's: comparing each element with each would take the gateway's
// process seconds.
func either[T any, K comparable](a, b []T, key func(T) K) []T {
	if len(b) == 0 {
		return a
	}
	known := make(map[K]bool, len(a)+len(b))
	for _, x := range a {
		known[key(x)] = true
	}
	a = slices.Clip(a)
	for _, x := range b {
		if k := key(x); !known[k] {
			known[k] = true
			a = append(a, x)
		}
	}
	return a
}

func eitherReason(a, b []execution.Reason) []execution.Reason {
	return either(a, b, func(r execution.Reason) execution.Reason { return r })
}

func eitherObligation(a, b []execution.Obligation) []execution.Obligation {
	type same struct {
		kind string
		must bool
		args string
	}
	return either(a, b, func(o execution.Obligation) same { return same{o.Type, o.Must, string(o.Args)} })
}

// with is a copy of m that has the entry too.
func with[V any](m map[string]V, key string, value V) map[string]V {
	copied := make(map[string]V, len(m)+1)
	maps.Copy(copied, m)
	copied[key] = value
	return copied
}
