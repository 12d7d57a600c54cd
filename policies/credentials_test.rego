package execgate_test

import data.execgate

test_every_tool_is_denied if {
	decision := execgate.decision with input as request
		with input.action.tools as ["github"]
		with data.images as images
	denied_only(decision, "tool_not_granted")
	denial(decision, "tool_not_granted").message == "No credential is granted for these tools: github"
	contains(denial(decision, "tool_not_granted").remediation, "configure Vault")
}
