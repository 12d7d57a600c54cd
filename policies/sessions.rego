package execgate

# METADATA
# title: Sessions
# description: >-
#   A sandbox that stays between executions, for tenants whose data says so. An execution
#   outside of one needs no grant.
session_granted if {
	input.action.kind == "execute"
	input.agent.session == ""
}

session_granted if {
	is_string(input.agent.session)
	session != null
}

# METADATA
# title: How long a session may last
# description: >-
#   Seconds without use, and in all, and how many of the tenant may be open at once. Null
#   where the tenant's data grants none.
session := object.get(tenant, "session", null)

# METADATA
# title: Who may get a sandbox that has run something
# description: >-
#   Nobody, where the tenant's data does not say principal: then the next execution of the
#   same principal may.
reuse := object.get(tenant, "reuse", "never")

# METADATA
# title: Sessions are granted by tenant
# custom:
#   id: sessions.granted
#   code: session_not_granted
#   message: Sessions are not granted.
#   remediation: Send executions without a session, and pass what a program needs of an earlier one in the input or as files. To grant sessions, the security team has to add session to the tenant's data.
refused contains reason(rego.metadata.rule(), "", "") if {
	not session_granted
}
