package execgate

# METADATA
# title: Whether a counter is below what the tenant's data lets it be
# description: Undefined, and so no, where the counter is not known.
below_budget("tenant", counter, limit) if input.context.counters[counter] < limit

below_budget("principal", counter, limit) if input.context.counters.principal[counter] < limit

# What a program sends out belongs to an execution, which was held against them; and
# reading the log uses nothing.
below_budget(_, _, _) if input.action.kind in {"egress", "audit_read"}

# METADATA
# title: Budgets of tenants, and of their principals
# custom:
#   id: budgets.spent
#   code: budget_spent
#   message: "This budget is spent: "
#   remediation: Try again when executions have ended, or a minute (_1m) or an hour (_1h) has passed.
deny contains reason(rego.metadata.rule(), $"{counter} of the {whose} may be {limit}", "") if {
	some whose, budget in tenant.budget
	some counter, limit in budget
	not below_budget(whose, counter, limit)
}
