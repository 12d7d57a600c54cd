package execgate_test

import data.execgate

opening := object.union(request, {"action": object.union(request.action, {"kind": "session", "code": {"sha256": "", "bytes": 0}})})

test_session_may_be_opened if {
	decision := decided with input as opening
	decision.effect == "allow"
	decision.session == {"idle_s": 600, "absolute_s": 3600, "max": 4}
	decision.limits.memory_mib == 256
}

test_execution_may_run_in_a_session if {
	decision := decided with input as request
		with input.agent.session as "se_01"
	decision.effect == "allow"
	decision.session.max == 4
}

test_every_tenant_has_its_own_numbers if {
	decision := decided with input as opening
		with input.principal.tenant as "research"
	decision.session == {"idle_s": 1800, "absolute_s": 14400, "max": 8}
}

test_tenant_without_sessions_opens_none if {
	decision := decided with input as opening
		with input.principal.tenant as "ci"
	denied_only(decision, "session_not_granted")
}

test_tenant_without_sessions_runs_in_none if {
	decision := decided with input as request
		with input.agent.session as "se_01"
		with input.principal.tenant as "ci"
	denied_only(decision, "session_not_granted")
}

test_tenant_without_sessions_runs_outside_of_one if {
	decision := decided with input as request
		with input.principal.tenant as "ci"
	decision.effect == "allow"
	decision.session == null
}

# A session is held to everything that an execution is held to.
test_session_is_no_way_around if {
	every change in [
		{"image": {"name": "ubuntu", "digest": digest}}, {"language": "ruby"}, {"runtime": "kata"},
		{"network": [{"host": "pypi.org", "port": 443}]}, {"tools": ["github"]},
	] {
		decision := decided with input as object.union(opening, {"action": object.union(opening.action, change)})
		decision.effect == "deny"
	}
}

test_reuse_is_not_the_default if {
	decision := decided with input as request
	decision.reuse == "never"
}

test_reuse_is_for_the_tenant_to_have if {
	decision := execgate.decision with input as request
		with data.tenants as default_with("reuse", "principal")
		with data.images as images
	decision.effect == "allow"
	decision.reuse == "principal"
}
