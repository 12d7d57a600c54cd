package execgate_test

import data.execgate

# The limits of a tenant for a request that asks for some.
limits_of(tenant, asked) := limits if {
	limits := decided.limits with input as request
		with input.principal.tenant as tenant
		with input.action.limits as asked
}

test_default_where_nothing_was_asked if {
	limits_of("default", {}) == {
		"timeout_ms": 30000, "memory_mib": 256, "cpu_millis": 500, "cpu_shares": 256,
		"pids": 50, "nofile": 256, "tmp_mib": 16, "workspace_mib": 32, "shm_mib": 8,
		"output_kib": 1024, "result_kib": 256, "files_mib": 8, "files_count": 64,
	}
}

test_ceiling_of_what_was_asked if {
	limits := limits_of("default", {"memory_mib": 512, "timeout_ms": 86400000})
	limits.memory_mib == 1024
	limits.timeout_ms == 60000
	limits.cpu_millis == 500
}

test_file_systems_are_a_quarter_of_the_memory_at_most if {
	every memory, most in {"1": 1, "16": 4, "64": 16, "128": 32, "255": 63, "1024": 64, "99999": 64} {
		limits := limits_of("default", {"memory_mib": to_number(memory), "tmp_mib": 64, "workspace_mib": 64})
		limits.tmp_mib == most
		limits.workspace_mib == most
	}
	limits_of("default", {"memory_mib": 16}).shm_mib == 4
}

test_ceilings_of_the_other_tenants if {
	limits_of("research", {"memory_mib": 8192}).memory_mib == 4096
	limits_of("ci", {"timeout_ms": 60000}).timeout_ms == 10000
}

test_ci_is_told_and_not_clamped if {
	decision := decided with input as request
		with input.principal.tenant as "ci"
	decision.on_exceed == {"timeout_ms": "deny", "memory_mib": "deny"}
}

test_clamp_is_the_default if {
	decision := execgate.decision with input as request
		with data.images as images
		with data.tenants as default_without(["limits", "on_exceed"])
	decision.effect == "allow"
	decision.on_exceed == {}
}

test_tenant_without_limits_is_denied if {
	every path in [["limits"], ["limits", "default"], ["limits", "ceiling"]] {
		decision := execgate.decision with input as request
			with data.images as images
			with data.tenants as default_without(path)
		denied_only(decision, "limits_undefined")
	}
}

test_tenant_with_half_its_limits_is_denied if {
	decision := execgate.decision with input as request
		with data.images as images
		with data.tenants as default_without(["limits", "default", "memory_mib"])
	denied_only(decision, "decision_incomplete")
}
