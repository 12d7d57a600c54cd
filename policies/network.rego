package execgate

# METADATA
# title: Destinations
# description: None is granted to anybody.
network_granted if count(input.action.network) == 0

# METADATA
# title: Sandboxes reach nothing
# custom:
#   id: network.granted
#   code: network_not_granted
#   message: "These destinations are not granted: <destinations>."
#   remediation: Leave network out. Fetch what the program needs beforehand and pass it in the input or as files.
deny contains reason(rego.metadata.rule(), {"<destinations>": listed({destination |
	some asked in object.get(input, ["action", "network"], [])
	destination := $"{asked.host}:{asked.port}"
})}) if {
	not network_granted
}
