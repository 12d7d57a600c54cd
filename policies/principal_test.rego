package execgate_test

test_admin_may_run_code if {
	decision := decided with input as request
		with input.principal.roles as ["admin"]
	decision.effect == "allow"
}

test_other_roles_may_not_run_code if {
	every roles in [[], ["auditor"], ["policy_author", "approver"], ["Caller"]] {
		decision := decided with input as request
			with input.principal.roles as roles
		denied_only(decision, "role_missing")
	}
}

test_unknown_tenant_is_denied_for_that_alone if {
	every tenant in ["", "other", "Default", "../default"] {
		decision := decided with input as request
			with input.principal.tenant as tenant
		denied_only(decision, "tenant_unknown")
	}
}

test_other_actions_are_denied if {
	every kind in ["Audit_read", "Egress", "Session", ""] {
		decision := decided with input as request
			with input.action.kind as kind
		denied_only(decision, "action_not_granted")
	}
}
