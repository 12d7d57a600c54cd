package execgate

# METADATA
# title: Large executions run a few at a time
# description: >-
#   Of one principal, and where the tenant's data say what is large: more than large.memory_mib,
#   while large.running or more are running.
# custom:
#   id: datascience.large
#   code: large_execution_waits
#   message: "So many executions may run beside a large one of the same principal, itself included: "
#   remediation: "Wait until others of yours have ended, or ask for less memory; in MiB, large is more than "
deny contains reason(rego.metadata.rule(), $"{most}", $"{above}") if {
	large := tenant.large
	most := object.get(large, "running", 0)
	above := object.get(large, "memory_mib", 0)
	not _small(above)
	not below_budget("principal", "running", most)
}

_small(above) if object.get(input.action.limits, "memory_mib", tenant.limits["default"].memory_mib) <= above
