package execgate_test

import data.execgate

test_purpose_is_needed if {
	every agent in [{}, {"name": "a", "purpose": " "}, {"name": "", "purpose": "report"}, {"name": "a"}] {
		asked := object.union(json.remove(request, ["/agent"]), {"agent": object.union({"session": ""}, agent)})
		denied_only(decided, "purpose_missing") with input as asked
	}
}

of_known_code(known) := decision if {
	decision := execgate.decision with input as request
		with data.images as images
		with data.tenants as default_with("known_code", known)
}

test_known_code_runs if of_known_code(["00"]).effect == "allow"

test_unknown_code_is_held if {
	of_known_code([]).effect == "require_approval"
	some reason in of_known_code(["01"]).reasons
	reason.code == "code_needs_approval"
	reason.message == "This code is not known here; its SHA-256 is 00"
}
