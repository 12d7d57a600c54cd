package execgate

# METADATA
# title: The decision about reading the audit log
# description: >-
#   The kind audit_read, which is asked before records or usage of others are shown. Whose
#   records these are is for the gateway to hold: those of the reader's own tenant, or for
#   the tenant default all. What deny names is denied here too.
audit_decision := {"effect": "allow", "reasons": []} if {
	count(deny) == 0
	audit_granted
} else := {"effect": "deny", "reasons": (deny | refused_audit)}

# METADATA
# title: Whether reading is granted
audit_granted if {
	tenant
	input.action.kind == "audit_read"
	some role in input.principal.roles
	role in {"auditor", "admin"}
}

# METADATA
# title: Auditors read the log
# custom:
#   id: audit.granted
#   code: audit_not_granted
#   message: Reading the audit log needs the role auditor, in a tenant that the policy knows.
#   remediation: Use a key that has the role auditor, or ask the security team to add the tenant to the policy's data.
refused_audit contains reason(rego.metadata.rule(), "", "") if {
	not audit_granted
}
