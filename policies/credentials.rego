package execgate

# METADATA
# title: Tools
# description: A tool needs a credential, and none is granted to anybody.
tools_granted if input.action.tools == []

# METADATA
# title: Tools need credentials from Vault
# custom:
#   id: credentials.granted
#   code: tool_not_granted
#   message: "No credential is granted for these tools: "
#   remediation: Leave tools out. To use them, the operator has to configure Vault in the gateway's configuration, and the security team has to grant the tool a credential in the policy (credentials.rego).
refused contains reason(rego.metadata.rule(), concat(", ", object.get(input, ["action", "tools"], [])), "") if {
	not tools_granted
}
