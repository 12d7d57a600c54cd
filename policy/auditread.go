package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
)

// The kind audit_read is somebody who reads the audit log. Its answer is an effect and
// reasons: whose records are shown is for the gateway to hold.

func (in *input) isAuditRead() bool { return in.Action.Kind == string(execution.ActionAuditRead) }

// narrowAuditRead takes the stricter of two answers about reading.
func (d *document) narrowAuditRead(by document) {
	by.proveAuditRead()
	d.narrowEffect(by)
	d.obligations = eitherObligation(d.obligations, by.obligations)
	d.warnings = eitherReason(d.warnings, by.warnings)
	d.shadowed = eitherReason(d.shadowed, by.shadowed)
}

// proveAuditRead denies again what only rules in the mode warn or shadow deny: an
// answer about reading has nothing that says what was granted without them.
func (d *document) proveAuditRead() {
	if d.lifted && d.effect != execution.EffectDeny {
		d.refuse(invalid(errors.New("only rules in the mode warn or shadow deny, and nothing says that reading is granted without them")).reason)
	}
}

// enforceAuditRead makes a Decision of an answer about reading. Nothing but an allow
// without conditions allows.
func (d *document) enforceAuditRead(revision string) execution.Decision {
	d.proveAuditRead()
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
