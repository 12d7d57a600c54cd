package execgate

# METADATA
# title: Runtime
# description: The tenant's first where none was asked for.
runtime := tenant.runtimes[0] if input.action.runtime == ""

runtime := input.action.runtime if {
	input.action.runtime != ""
	input.action.runtime in tenant.runtimes
}

# METADATA
# title: Runtimes are granted by name
# custom:
#   id: runtime.granted
#   code: runtime_not_granted
#   message: "This runtime is not granted: "
#   remediation: "Leave runtime out, or ask for one that is granted: "
refused contains reason(rego.metadata.rule(), object.get(input, ["action", "runtime"], ""), concat(", ", object.get(tenant, "runtimes", []))) if {
	not runtime
	tenant
}
