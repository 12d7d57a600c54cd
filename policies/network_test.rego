package execgate_test

test_every_destination_is_denied if {
	every tenant in ["default", "research", "ci"] {
		decision := decided with input as request
			with input.principal.tenant as tenant
			with input.action.network as [{"host": "pypi.org", "port": 443}, {"host": "10.0.0.1", "port": 80}]
		denied_only(decision, "network_not_granted")
		denial(decision, "network_not_granted").message == "These destinations are not granted: 10.0.0.1:80, pypi.org:443"
	}
}
