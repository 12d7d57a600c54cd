package execgate

# METADATA
# title: Destinations
# description: >-
#   Each that is asked for must be opened by one of the tenant's network.rules. A tenant
#   without any reaches nothing.
network_granted if {
	every asked in input.action.network {
		some rule in tenant.network.rules
		_opens(rule, asked)
	}
}

# METADATA
# title: What the execution may reach
# description: >-
#   The rules of what it asks for, and no other, within the tenant's network.budget. A host
#   that begins with "*." is any name below; such a rule cannot have the mode forward. Where
#   network.decide is request, each request is decided besides (egress.rego).
network := {"rules": []} if {
	input.action.network == []
} else := {"rules": network_rules, "budget": tenant.network.budget, "decide": _decide}

_decide := object.get(tenant.network, "decide", "grant")

network_rules contains rule if {
	some asked in input.action.network
	some rule in tenant.network.rules
	_opens(rule, asked)
}

_opens(rule, asked) if {
	asked.port in rule.ports
	_names(rule.host, asked.host)
}

_names(host, host)

_names(pattern, host) if {
	startswith(pattern, "*.")
	endswith(host, substring(pattern, 1, -1))
}

# METADATA
# title: Sandboxes reach what they ask for and are granted
# custom:
#   id: network.granted
#   code: network_not_granted
#   message: "These destinations are not granted: "
#   remediation: Leave them out of network, and pass what the program needs in the input or as files. To open one, the security team has to add it to network.rules of the tenant's data.
refused contains reason(
	rego.metadata.rule(), concat(", ", {destination |
		some asked in object.get(input, ["action", "network"], [])
		not _opened(asked)
		destination := $"{asked.host}:{asked.port}"
	}),
	"",
) if {
	not network_granted
}

_opened(asked) if {
	some rule in tenant.network.rules
	_opens(rule, asked)
}
