package execgate

# METADATA
# title: Limits
# description: >-
#   The most of each that this request may have: the tenant's ceiling of what was asked
#   for, and its default of what was not. The gateway grants what was asked for within
#   these, and clamps what is more.
limits := object.union(_limits, {
	"tmp_mib": min([_limits.tmp_mib, _quarter]),
	"workspace_mib": min([_limits.workspace_mib, _quarter]),
	"shm_mib": min([_limits.shm_mib, _quarter]),
})

# METADATA
# title: What to do with a request for more
# description: Clamp, where the tenant's data does not say deny.
on_exceed := object.get(tenant.limits, "on_exceed", {})

_limits := object.union(
	tenant.limits["default"],
	object.filter(tenant.limits.ceiling, object.keys(input.action.limits)),
)

# Pages of a tmpfs count as memory of the sandbox: one that is as large as the memory
# would let a program that only writes files be killed for it.
_quarter := max([1, floor(_memory_mib / 4)])

_memory_mib := min([_limits.memory_mib, object.get(input.action.limits, "memory_mib", _limits.memory_mib)])

# METADATA
# title: Every tenant has limits
# custom:
#   id: limits.defined
#   code: limits_undefined
#   message: 'The policy''s data has no limits for the tenant "<tenant>".'
#   remediation: The security team has to add the default and ceiling of every limit to the tenant's data.
deny contains reason(rego.metadata.rule(), {"<tenant>": input.principal.tenant}) if {
	tenant
	not limits
}
