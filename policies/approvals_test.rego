package execgate_test

import data.execgate

# What is decided where the default tenant's data say that of approvals.
approving(terms, asked) := decision if {
	decision := execgate.decision with input as asked
		with data.tenants as default_with("approval", terms)
		with data.images as images
}

asking(limits) := object.union(request, {"action": {"limits": limits}})

approved := object.union(request, {"context": {"approval": {
	"id": "ap_01", "by": "ak_02", "at": "2026-01-01T00:00:00Z", "comment": "", "request_sha256": "00",
}}})

local := {"code": "local", "message": "m", "rule": "local.one", "remediation": "r"}

test_image_is_held if {
	decision := approving({"images": ["python"]}, request)
	decision.effect == "require_approval"
	decision.approval == {"expires_s": 3600, "roles": ["approver"]}
	{reason.code | some reason in decision.reasons} == {"image_needs_approval"}
	decision.image.digests == [digest]
}

test_terms_are_the_tenants if {
	decision := approving({"images": ["python"], "expires_s": 60, "roles": ["admin"]}, request)
	decision.approval == {"expires_s": 60, "roles": ["admin"]}
}

test_other_images_are_not_held if approving({"images": ["node"]}, request).effect == "allow"

test_what_is_approved_is_allowed if approving({"images": ["python"]}, approved).effect == "allow"

test_limit_above_is_held if {
	above := {"above": {"memory_mib": 512}}
	decision := approving(above, asking({"memory_mib": 513}))
	decision.effect == "require_approval"
	{reason.message | some reason in decision.reasons} == {"More than this needs an approval: memory_mib 512"}
	approving(above, asking({"memory_mib": 512})).effect == "allow"
	approving(above, request).effect == "allow"
}

test_default_above_is_held if approving({"above": {"memory_mib": 255}}, request).effect == "require_approval"

# The ceiling is 1024: nobody gets more by asking for more.
test_what_is_clamped_is_not_held if approving({"above": {"memory_mib": 1024}}, asking({"memory_mib": 4096})).effect == "allow"

test_limit_that_is_not_known_is_held if approving({"above": {"bananas": 5}}, request).effect == "require_approval"

test_what_is_refused_is_not_held if {
	decision := approving({"images": ["python", "ubuntu"]}, object.union(request, {"action": {"image": {"name": "ubuntu"}}}))
	denied_only(decision, "image_not_granted")
}

# A denial wins, and says what would be needed without the rule that denies.
test_what_is_denied_is_not_held if {
	decision := execgate.decision with input as request
		with execgate.deny as {local}
		with data.tenants as default_with("approval", {"images": ["python"]})
		with data.images as images
	denied_only(decision, "local")
	decision.approval.roles == ["approver"]
}

test_denial_of_what_needs_no_approval_names_none if {
	decision := decided with input as request with execgate.deny as {local}
	not decision.approval
}
