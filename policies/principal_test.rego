package execgate_test

import data.execgate

test_admin_may_run_code if {
	decision := execgate.decision with input as request
		with input.principal.roles as ["admin"]
		with data.images as images
	decision.effect == "allow"
}

test_other_roles_may_not_run_code if {
	every roles in [[], ["auditor"], ["policy_author", "approver"], ["Caller"]] {
		decision := execgate.decision with input as request
			with input.principal.roles as roles
			with data.images as images
		denied_only(decision, "role_missing")
	}
}

test_unknown_tenant_is_denied_for_that_alone if {
	every tenant in ["", "other", "Default", "../default"] {
		decision := execgate.decision with input as request
			with input.principal.tenant as tenant
			with data.images as images
		denied_only(decision, "tenant_unknown")
	}
}

test_other_actions_are_denied if {
	every kind in ["tool_call", "egress", "audit_read", "Session", ""] {
		decision := execgate.decision with input as request
			with input.action.kind as kind
			with data.images as images
		denied_only(decision, "action_not_granted")
	}
}
