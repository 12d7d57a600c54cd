package execgate

# METADATA
# title: Who asks says what for
# custom:
#   id: strict.purpose
#   code: purpose_missing
#   message: The request does not say which agent asks, and what for.
#   remediation: Set agent.name and agent.purpose. Both are claims; they are recorded with the decision.
deny contains reason(rego.metadata.rule(), "", "") if {
	not _purposeful
}

_purposeful if {
	count(trim_space(input.agent.name)) > 0
	count(trim_space(input.agent.purpose)) > 0
}

# METADATA
# title: Code that nobody has looked at needs an approval
# description: Of tenants whose data name the code that is known, by its SHA-256.
# custom:
#   id: strict.known_code
#   code: code_needs_approval
#   message: "This code is not known here; its SHA-256 is "
#   remediation: Wait for the approval. Code that runs often is worth adding to known_code of the tenant's data.
held contains reason(rego.metadata.rule(), object.get(input, ["action", "code", "sha256"], ""), "") if {
	known := tenant.known_code
	not input.action.code.sha256 in known
}
