package execgate

# METADATA
# title: Destinations
# description: None is granted to anybody.
network_granted if input.action.network == []

# METADATA
# title: Sandboxes reach nothing
# custom:
#   id: network.granted
#   code: network_not_granted
#   message: "These destinations are not granted: "
#   remediation: Leave network out. Fetch what the program needs beforehand and pass it in the input or as files.
refused contains reason(
	rego.metadata.rule(), concat(", ", {destination |
		some asked in object.get(input, ["action", "network"], [])
		destination := $"{asked.host}:{asked.port}"
	}),
	"",
) if {
	not network_granted
}
