# METADATA
# title: What an agent may run
# description: >-
#   One file per concern. Each concern has a rule that holds only where its part of
#   the request is granted (image_granted, env_granted, …). An allow needs every one of
#   them, so a field that is missing, a rule that is undefined and a tenant without data
#   all deny.
#
#   Three sets hold reasons. deny is what forbids a request whatever is granted: add rules
#   to it, in files of your own, to forbid more. held is what somebody has to approve.
#   refused explains what was asked for and is not granted; it is looked at only where a
#   request is denied.
#
#   The metadata of these rules gives their id, code, message and remediation. Where
#   these end in a colon, the rule adds what was asked for and what may be.
package execgate

# METADATA
# title: The decision
# description: What the gateway asks for.
# entrypoint: true
decision := egress_decision if {
	input.action.kind == "egress"
} else := audit_decision if {
	input.action.kind == "audit_read"
} else := granted if {
	allow
} else := object.union(granted, {"effect": "require_approval", "reasons": held, "approval": approval}) if {
	count(deny) == 0
	all_granted
} else := object.union_n([granted, terms, {"effect": "deny", "reasons": deny}]) if {
	count(deny) > 0
	all_granted
} else := {"effect": "deny", "reasons": (deny | refused)}

# METADATA
# title: Whether it is allowed
allow if {
	count(deny) == 0
	all_granted
	agreed
}

# METADATA
# title: What a denial says of the approval that is needed besides
terms := {} if {
	agreed
} else := {"approval": approval}

# METADATA
# title: Whether everything that was asked for is granted
# description: >-
#   A denial of what is granted holds the grant too, for rules of deny in the mode warn or
#   shadow: where only they deny, the gateway allows it, or asks for the approval.
all_granted if {
	kind_granted
	role_granted
	image_digests
	language_granted
	runtime
	limits_granted
	env_granted
	network_granted
	tools_granted
	session_granted
	call_granted
}

# METADATA
# title: The decision of an allow
# description: Undefined, and so a denial, where any of its parts is.
granted := {
	"effect": "allow",
	"reasons": [],
	"limits": limits,
	"on_exceed": on_exceed,
	"image": {"digests": image_digests},
	"runtime": runtime,
	"env": {"allow": env_allowed},
	"optional_controls": [],
	"network": network,
	"credentials": credentials,
	"session": session,
	"reuse": reuse,
	"obligations": obligations,
	"advice": [],
}

# METADATA
# title: A decision is whole
# custom:
#   id: decision.whole
#   code: decision_incomplete
#   message: Everything is granted, but the policy cannot work out the limits or another part of the decision.
#   remediation: The security team has to complete the tenant's data.
refused contains reason(rego.metadata.rule(), "", "") if {
	all_granted
	not granted
}

# METADATA
# title: A denial's reason
# description: >-
#   Made of the metadata of the rule that denies, what the message is about and what the
#   remediation offers.
reason(metadata, subject, offer) := {
	"code": metadata.custom.code,
	"message": concat("", [metadata.custom.message, subject]),
	"rule": metadata.custom.id,
	"remediation": concat("", [metadata.custom.remediation, offer]),
}
