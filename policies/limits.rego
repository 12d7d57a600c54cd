package execgate

# METADATA
# title: Limits
# description: >-
#   The most of each that this request may have: the tenant's ceiling of what was asked
#   for, and its default of what was not. The gateway grants what was asked for within
#   these, and clamps what is more.
limits := object.union(most, {
	"tmp_mib": min([most.tmp_mib, quarter]),
	"workspace_mib": min([most.workspace_mib, quarter]),
	"shm_mib": min([most.shm_mib, quarter]),
}) if {
	of := tenant.limits
	asked := input.action.limits
	most := object.union(of["default"], object.filter(of.ceiling, asked))

	# Pages of a tmpfs count as memory of the sandbox: one that is as large as the memory
	# would let a program that only writes files be killed for it.
	memory := min([most.memory_mib, object.get(asked, "memory_mib", most.memory_mib)])
	quarter := max([1, floor(memory / 4)])
}

# METADATA
# title: Whether the tenant has limits at all
limits_granted if {
	tenant.limits["default"]
	tenant.limits.ceiling
}

# METADATA
# title: What to do with a request for more
# description: Clamp, where the tenant's data does not say deny.
on_exceed := object.get(tenant.limits, "on_exceed", {})

# METADATA
# title: Every tenant has limits
# custom:
#   id: limits.defined
#   code: limits_undefined
#   message: "The policy's data has no limits for this tenant: "
#   remediation: The security team has to add the default and ceiling of every limit to the tenant's data.
refused contains reason(rego.metadata.rule(), input.principal.tenant, "") if {
	not limits_granted
	tenant
}
