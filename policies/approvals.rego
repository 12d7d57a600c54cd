package execgate

# What somebody has to agree to: held is the set of the reasons for which a request that is
# granted awaits an approval. Add rules to it, in files of your own. Only executions can be
# held back; a session is not opened then.

# METADATA
# title: Images that need an approval
# custom:
#   id: approvals.image
#   code: image_needs_approval
#   message: "Executions of this image need an approval: "
#   remediation: Wait for it; the answer names the approval, and who has one of its roles may give it.
held contains reason(rego.metadata.rule(), input.action.image.name, "") if {
	input.action.image.name in tenant.approval.images
}

# METADATA
# title: Limits above which an approval is needed
# custom:
#   id: approvals.limit
#   code: limit_needs_approval
#   message: "More than this needs an approval: "
#   remediation: "Wait for it; the answer names the approval, and who has one of its roles may give it. Or ask for less."
held contains reason(rego.metadata.rule(), $"{name} {most}", "") if {
	some name, most in tenant.approval.above
	not _at_most(name, most)
}

# What is granted: a limit that is not known is more than any number.
_at_most(name, most) if object.get(input.action.limits, name, limits[name]) <= most

# What is asked for beyond the ceiling is clamped to it.
_at_most(name, most) if tenant.limits.ceiling[name] <= most

# METADATA
# title: Whether nothing is left to agree to
agreed if count(held) == 0

agreed if is_string(input.context.approval.by)

# METADATA
# title: How long an approval is waited for, in seconds, and who may give it
approval := object.union({"expires_s": 3600, "roles": ["approver"]}, object.filter(
	object.get(tenant, "approval", {}),
	["expires_s", "roles"],
))
