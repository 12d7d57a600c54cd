package execgate

# METADATA
# title: Jobs say what they are for
# description: By a pattern in the tenant's data, such as the name of a branch or a tag.
# custom:
#   id: ci.purpose
#   code: purpose_not_granted
#   message: "The purpose of this job is not one that the tenant may have: "
#   remediation: "Set agent.purpose to what the job is for, in the form "
deny contains reason(rego.metadata.rule(), purpose, pattern) if {
	pattern := tenant.purpose
	purpose := object.get(input, ["agent", "purpose"], "")
	not regex.match(pattern, purpose)
}
