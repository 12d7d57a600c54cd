package execgate_test

import data.execgate

test_image_that_is_not_granted_is_denied if {
	decision := execgate.decision with input as request
		with input.action.image.name as "ubuntu"
		with data.images as {"ubuntu": digest}
		with data.tenants as tenants
	denied_only(decision, "image_not_granted")
	denial(decision, "image_not_granted").message == "This image is not granted: ubuntu"
	denial(decision, "image_not_granted").remediation == "Ask for one of the images that are granted: python, node"
}

test_image_without_digest_is_denied if {
	every resolved in [{}, {"python": ""}, {"python": "latest"}] {
		decision := execgate.decision with input as request with data.images as resolved with data.tenants as tenants
		denied_only(decision, "image_not_resolved")
	}
}

test_digest_is_the_gateways if {
	decision := decided with input as request
		with input.action.image.digest as "sha256:ff"
	decision.image.digests == [digest]
}

test_language_that_is_not_granted_is_denied if {
	decision := decided with input as request
		with input.action.language as "ruby"
	denied_only(decision, "language_not_granted")
	denial(decision, "language_not_granted").remediation == "Ask for one of the languages that are granted: python, javascript, bash"
}

test_command_needs_no_language if {
	decision := decided with input as request
		with input.action.language as ""
	decision.effect == "allow"
}
