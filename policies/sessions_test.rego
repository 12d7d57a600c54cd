package execgate_test

import data.execgate

test_every_session_is_denied if {
	decision := execgate.decision with input as request
		with input.agent.session as "se_01"
		with data.images as images
	denied_only(decision, "session_not_granted")
}
