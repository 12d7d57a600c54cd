package execgate

# METADATA
# title: Variables that may be set
# description: Those that were asked for, match a pattern of the tenant, and steer no interpreter.
env_allowed contains name if {
	some name in input.action.env_names
	some pattern in tenant.env.allowed
	regex.match($`^(?:{pattern})$`, name)
	_harmless(name)
}

# METADATA
# title: All variables that were asked for
env_granted if {
	every name in input.action.env_names {
		name in env_allowed
	}
}

# The lists are bound first: where one is missing, nothing is harmless.
_harmless(name) if {
	names := data.env.denied_names
	prefixes := data.env.denied_prefixes
	not name in names
	not strings.any_prefix_match(name, prefixes)
}

# METADATA
# title: Variables are granted by name
# custom:
#   id: env.granted
#   code: env_not_granted
#   message: "These variables may not be set: "
#   remediation: "Leave them out, or pass the values in the input. Names that steer an interpreter, a linker or the gateway (PATH, PYTHON…, LD_… and their like) are never granted; others are where they match one of: "
refused contains reason(rego.metadata.rule(), concat(", ", {name | some name in object.get(input, ["action", "env_names"], [])} - env_allowed), concat(", ", object.get(tenant, ["env", "allowed"], []))) if {
	not env_granted
	tenant
}
