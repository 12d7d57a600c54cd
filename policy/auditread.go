package policy

import (
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
)

// The kind audit_read is somebody who reads the audit log. Its answer is an effect and
// reasons: that the reader is an auditor, and whose records are shown, is for the gateway
// to hold. So where rules in the mode warn or shadow alone deny, nothing more has to show
// that reading is granted without them.

func (in *input) isAuditRead() bool { return in.Action.Kind == string(execution.ActionAuditRead) }

// narrowAuditRead takes the stricter of two answers about reading.
func (d *document) narrowAuditRead(by document) {
	d.narrowEffect(by)
	d.obligations = eitherObligation(d.obligations, by.obligations)
	d.warnings = eitherReason(d.warnings, by.warnings)
	d.shadowed = eitherReason(d.shadowed, by.shadowed)
}

// enforceAuditRead makes a Decision of an answer about reading. Nothing but an allow
// without conditions allows.
func (d *document) enforceAuditRead(revision string) execution.Decision {
	switch d.effect {
	case execution.EffectDeny:
		return denied(revision, d.denials())
	case execution.EffectAllow:
	default:
		return denied(revision, append(slices.Clip(d.reasons), unsupported("an approval of reading the audit log")))
	}
	for _, o := range d.obligations {
		if o.Must {
			return denied(revision, []execution.Reason{unsupported(fmt.Sprintf("the obligation %.100q of reading the audit log", o.Type))})
		}
	}
	return execution.Decision{
		Effect: execution.EffectAllow, Reasons: append([]execution.Reason{}, d.reasons...), Clamped: []execution.Clamp{},
		Warnings: d.warnings, Shadowed: d.shadowed, Revision: revision,
	}
}
