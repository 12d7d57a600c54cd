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
#   message: "These variables may not be set: <names>."
#   remediation: 'Leave them out, or pass the values in the input. The tenant "<tenant>" may set names that match one of: <patterns>; names that steer an interpreter, a linker or the gateway (such as PATH, PYTHON…, LD_…) are never granted.'
deny contains reason(rego.metadata.rule(), {
	"<names>": listed({name | some name in object.get(input, ["action", "env_names"], [])} - env_allowed),
	"<tenant>": input.principal.tenant,
	"<patterns>": listed(object.get(tenant, ["env", "allowed"], [])),
}) if {
	tenant
	not env_granted
}
