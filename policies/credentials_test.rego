package execgate_test

test_every_tool_is_denied if {
	decision := decided with input as request
		with input.action.tools as ["github"]
	denied_only(decision, "tool_not_granted")
	denial(decision, "tool_not_granted").message == "No credential is granted for these tools: github"
	contains(denial(decision, "tool_not_granted").remediation, "configure Vault")
}
