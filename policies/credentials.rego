package execgate

# METADATA
# title: Tools
# description: >-
#   Each that is asked for must be among the tenant's tools, and one that the gateway's
#   configuration gives a credential (data.tools).
tools_granted if {
	every tool in input.action.tools {
		_lendable[tool]
	}
}

# METADATA
# title: What is lent to the execution
# description: >-
#   The credentials of the tools that it asks for, as the gateway's configuration has them.
#   Write other values over them here to lend less: a shorter ttl_s, another role.
credentials contains object.union(data.tools[tool].credential, {"tool": tool}) if {
	some tool in input.action.tools
	_lendable[tool]
}

# METADATA
# title: Tools need credentials from Vault
# custom:
#   id: credentials.granted
#   code: tool_not_granted
#   message: "No credential is granted for these tools: "
#   remediation: Leave them out of tools. To grant one, the operator has to configure Vault and the tool in the gateway's configuration, and the security team has to add it to tools of the tenant's data.
refused contains reason(
	rego.metadata.rule(), concat(", ", {$"{tool}" |
		some tool in object.get(input, ["action", "tools"], [])
		not _lendable[tool]
	}),
	"",
) if {
	not tools_granted
}

_lendable contains tool if {
	some tool in tenant.tools
	is_object(data.tools[tool].credential)
}
