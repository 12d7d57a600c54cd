package execgate

# METADATA
# title: The tool that is called
# description: >-
#   Tools are granted by name, in the tenant's data. What a tool of that name is, the
#   gateway says.
called := data.tools[input.action.tool] if {
	input.action.kind == "tool_call"
	input.action.tool in tenant.tools
}

# METADATA
# title: Whether the tool may be called
# description: Other kinds of action call none.
call_granted if input.action.kind in {"execute", "session"}

call_granted if {
	called.kind == "container"
	input.action.image.name == called.image
}

call_granted if runs_nothing

# METADATA
# title: The image of a tool
# description: It goes with the tool, and is open to nothing else by that.
image_granted if {
	call_granted
	input.action.image.name == called.image
}

# METADATA
# title: Tools that run nothing
# description: >-
#   Those of the kind http, whose request the gateway makes. They have no image; their
#   destination, and their credential, are granted as those of programs are.
runs_nothing if {
	input.action.image.name == ""
	input.action.image.digest == ""
	called.kind == "http"
}

# METADATA
# title: Tools run outside of sessions
session_granted if {
	input.action.kind == "tool_call"
	input.agent.session == ""
}

# METADATA
# title: Tools are granted by name
# custom:
#   id: tools.granted
#   code: tool_not_granted
#   message: "This tool is not granted: "
#   remediation: Call one of those that GET /v1/tools lists. To grant another, the security team has to add its name to tools in the tenant's data, and the operator has to have it in the gateway's configuration.
refused contains reason(rego.metadata.rule(), object.get(input, ["action", "tool"], ""), "") if {
	input.action.kind == "tool_call"
	not called
}

# METADATA
# title: Tools that have no call of their own
# custom:
#   id: tools.kind
#   code: tool_unsupported
#   message: "This tool is granted, but this gateway cannot call it: "
#   remediation: Tools of the kind egress are for code, which names them in tools. Call one of the kind container or http.
refused contains reason(
	rego.metadata.rule(),
	concat(" is of the kind ", [object.get(input, ["action", "tool"], ""), called.kind]), "",
) if {
	called.kind == "egress"
}
