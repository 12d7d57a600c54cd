package execgate_test

import data.execgate

test_image_that_is_not_granted_is_denied if {
	decision := execgate.decision with input as request
		with input.action.image.name as "ubuntu"
		with data.images as {"ubuntu": digest}
	denied_only(decision, "image_not_granted")
	denial(decision, "image_not_granted").message == "This image is not granted: ubuntu"
	denial(decision, "image_not_granted").remediation == "Ask for one of the images that are granted: python, node"
}

test_image_without_digest_is_denied if {
	every resolved in [{}, {"python": ""}, {"python": "latest"}] {
		decision := execgate.decision with input as request with data.images as resolved
		denied_only(decision, "image_not_resolved")
	}
}

test_digest_is_the_gateways if {
	decision := execgate.decision with input as request
		with input.action.image.digest as "sha256:ff"
		with data.images as images
	decision.image.digests == [digest]
}

test_language_that_is_not_granted_is_denied if {
	decision := execgate.decision with input as request
		with input.action.language as "ruby"
		with data.images as images
	denied_only(decision, "language_not_granted")
	denial(decision, "language_not_granted").remediation == "Ask for one of the languages that are granted: python, javascript, bash"
}

test_command_needs_no_language if {
	decision := execgate.decision with input as request
		with input.action.language as ""
		with data.images as images
	decision.effect == "allow"
}
