package execgate_test

import data.execgate

test_granted_runtime_is_used if {
	decision := execgate.decision with input as request
		with input.action.runtime as "runsc"
		with data.images as images
		with data.tenants as default_with("runtimes", ["runc", "runsc"])
	decision.effect == "allow"
	decision.runtime == "runsc"
}

test_first_runtime_is_the_default if {
	decision := execgate.decision with input as request
		with data.images as images
		with data.tenants as default_with("runtimes", ["runsc", "runc"])
	decision.runtime == "runsc"
}

test_runtime_that_is_not_granted_is_denied if {
	decision := decided with input as request
		with input.action.runtime as "kata"
	denied_only(decision, "runtime_not_granted")
	endswith(denial(decision, "runtime_not_granted").remediation, ": runc")
}
