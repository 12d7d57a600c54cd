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
#   message: 'The runtime "<runtime>" is not granted to the tenant "<tenant>".'
#   remediation: "Leave the runtime out, or ask for one of these: <granted>."
deny contains reason(rego.metadata.rule(), {
	"<runtime>": object.get(input, ["action", "runtime"], ""),
	"<tenant>": input.principal.tenant,
	"<granted>": listed(object.get(tenant, "runtimes", [])),
}) if {
	tenant
	not runtime
}
