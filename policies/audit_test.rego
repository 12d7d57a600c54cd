package execgate_test

import data.execgate

# An auditor who reads the log: of the action there is nothing but its kind to know.
reading := object.union(request, {
	"principal": {"roles": ["auditor"]},
	"action": {"kind": "audit_read", "language": "", "code": {"sha256": "", "bytes": 0}, "image": {"name": "", "digest": ""}},
})

test_auditors_read_the_log if {
	every roles in [["auditor"], ["admin"], ["caller", "auditor"]] {
		decision := decided with input as reading
			with input.principal.roles as roles
		decision == {"effect": "allow", "reasons": []}
	}
}

test_others_do_not_read_the_log if {
	every roles in [[], ["approver"], ["policy_author"], ["Auditor"]] {
		decision := decided with input as reading
			with input.principal.roles as roles
		decision.effect == "deny"
		{reason.code | some reason in decision.reasons} == {"audit_not_granted", "role_missing"}
	}
	decision := decided with input as reading
		with input.principal.roles as ["caller"]
	denied_only(decision, "audit_not_granted")
}

test_the_log_is_not_for_a_tenant_that_is_not_known if {
	every tenant in ["", "nobody"] {
		decision := decided with input as reading
			with input.principal.tenant as tenant
		denied_only(decision, "audit_not_granted")
	}
}

# What is added to deny counts for reading, too.
test_denial_counts_for_reading if {
	decision := decided with input as reading
		with execgate.deny as {local}
	denied_only(decision, "local")
}

test_reading_spends_no_budget if {
	decision := execgate.decision with input as reading
		with input.context.counters.executions_1m as 100
		with data.images as images
		with data.tenants as default_with("budget", {"tenant": {"executions_1m": 1}})
	decision.effect == "allow"
}

test_an_auditor_runs_nothing_by_that if {
	decision := decided with input as object.union(reading, {"action": request.action})
	denied_only(decision, "role_missing")
}
