package execgate

# METADATA
# title: The asking tenant's data
tenant := data.tenants[input.principal.tenant]

# METADATA
# title: Kind of action
# description: What each may do is for other rules to say. The kinds egress and audit_read have decisions of their own.
kind_granted if input.action.kind in {"execute", "session", "tool_call", "egress", "audit_read"}

# METADATA
# title: Role
role_granted if {
	some role in input.principal.roles
	role in {"caller", "admin"}
}

role_granted if {
	input.action.kind == "audit_read"
	"auditor" in input.principal.roles
}

# METADATA
# title: Only executions, what they send out, sessions, calls of tools and reading the log are known
# custom:
#   id: principal.kind
#   code: action_not_granted
#   message: "This kind of action is not granted: "
#   remediation: Send the code to run as an execution, open a session, or call a tool.
deny contains reason(rego.metadata.rule(), object.get(input, ["action", "kind"], ""), "") if {
	not kind_granted
}

# METADATA
# title: The tenant must be known
# custom:
#   id: principal.tenant
#   code: tenant_unknown
#   message: "This tenant is not known to the policy: "
#   remediation: Use a key of another tenant, or ask the security team to add this one to the policy's data.
refused contains reason(rego.metadata.rule(), object.get(input, ["principal", "tenant"], ""), "") if {
	not tenant
}

# METADATA
# title: Callers run code
# custom:
#   id: principal.role
#   code: role_missing
#   message: Running code needs the role caller.
#   remediation: Use a key that has the role caller.
deny contains reason(rego.metadata.rule(), "", "") if {
	not role_granted
}
