package execgate_test

import data.execgate

# What is decided of that purpose, where releases are all that may be.
released(purpose) := decision if {
	decision := execgate.decision with input as object.union(request, {"agent": {"purpose": purpose}})
		with data.images as images
		with data.tenants as default_with("purpose", `^release/[0-9]+$`)
}

test_purpose_of_the_form_is_granted if released("release/7").effect == "allow"

test_other_purposes_are_denied if {
	every purpose in ["", "main", "release/", "xrelease/7", "release/7\n"] {
		denied_only(released(purpose), "purpose_not_granted")
	}
	endswith(denial(released("main"), "purpose_not_granted").remediation, "in the form ^release/[0-9]+$")
}

test_missing_purpose_is_denied if {
	decision := execgate.decision with input as json.remove(request, ["/agent/purpose"])
		with data.images as images
		with data.tenants as default_with("purpose", "^release$")
	denied_only(decision, "purpose_not_granted")
}

test_tenant_without_pattern_takes_any if {
	decision := decided with input as request
	decision.effect == "allow"
}
