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
deny contains reason(rego.metadata.rule(), $"{large.running}", $"{large.memory_mib}") if {
	large := tenant.large
	not _small(large)
	not below_budget("principal", "running", large.running)
}

_small(large) if object.get(input.action.limits, "memory_mib", tenant.limits["default"].memory_mib) <= large.memory_mib
