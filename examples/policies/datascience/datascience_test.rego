package execgate_test

import data.execgate

# What is decided of that much memory while so many of the principal's executions run.
large(memory, running) := decision if {
	asked := object.union(request, {
		"action": {"limits": {"memory_mib": memory}},
		"context": {"counters": {"principal": {"running": running}}},
	})
	decision := execgate.decision with input as asked
		with data.images as images
		with data.tenants as default_with("large", {"memory_mib": 512, "running": 1})
}

test_first_large_execution_runs if large(1024, 0).effect == "allow"

test_small_executions_run_beside_others if large(512, 9).effect == "allow"

test_second_large_execution_waits if {
	decision := large(513, 1)
	denied_only(decision, "large_execution_waits")
	endswith(denial(decision, "large_execution_waits").remediation, "more than 512")
}

# What is not known is neither small nor below anything.
test_unknown_counter_waits if {
	decision := execgate.decision with input as json.remove(request, ["/context/counters/principal"])
		with data.images as images
		with data.tenants as default_with("large", {"memory_mib": 1, "running": 1})
	denied_only(decision, "large_execution_waits")
}
