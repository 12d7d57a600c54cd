package execgate_test

import data.execgate

counters := {"running": 1, "executions_1m": 9, "cpu_ms_1h": 0, "principal": {"running": 0, "executions_1m": 2, "cpu_ms_1h": 0}}

# What is decided of a request with those counters, where its tenant has a budget.
under(budget) := decision if {
	decision := execgate.decision with input as request
		with input.context.counters as counters
		with data.images as images
		with data.tenants as default_with("budget", budget)
}

test_within_budget if {
	under({"tenant": {"executions_1m": 10}, "principal": {"executions_1m": 3, "running": 1}}).effect == "allow"
}

test_what_is_sent_out_was_budgeted_with_its_execution if {
	decision := execgate.decision with input as leaving({})
		with data.tokens as tokens
		with data.tenants as object.union(opened, {"default": {"budget": {"tenant": {"running": 0}}}})
	decision.effect == "allow"
}

test_tenants_budget_is_spent if {
	decision := under({"tenant": {"executions_1m": 9, "running": 2}})
	denied_only(decision, "budget_spent")
	denial(decision, "budget_spent").message == "This budget is spent: executions_1m of the tenant may be 9"
}

test_principals_budget_is_spent if {
	denied_only(under({"tenant": {"executions_1m": 10}, "principal": {"executions_1m": 2}}), "budget_spent")
}

test_counter_that_is_not_known_is_spent if {
	denied_only(under({"tenant": {"executions_1m": 10, "leases_1h": 5}}), "budget_spent")
	denied_only(under({"team": {"running": 5}}), "budget_spent")
}
