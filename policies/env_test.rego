package execgate_test

decision_for_env(tenant, names) := decision if {
	decision := decided with input as request
		with input.principal.tenant as tenant
		with input.action.env_names as names
}

test_harmless_variables_are_granted if {
	decision := decision_for_env("default", ["A", "MODE", "X_1"])
	decision.effect == "allow"
	decision.env.allow == {"A", "MODE", "X_1"}
}

test_variables_that_steer_something_are_denied if {
	every name in [
		"LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "PATH",
		"HOME", "EXECGATE_RESULT", "BASH_ENV", "ENV", "IFS", "HTTPS_PROXY", "GLIBC_TUNABLES",
	] {
		denied_only(decision_for_env("default", [name]), "env_not_granted")
	}
}

# What names the certificates that a sandbox's programs are to trust.
test_variables_of_trust_are_denied if {
	every name in [
		"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
		"GIT_SSL_CAINFO", "GIT_SSL_NO_VERIFY", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED",
	] {
		denied_only(decision_for_env("default", [name]), "env_not_granted")
	}
}

test_variables_of_another_form_are_denied if {
	every name in ["", "mode", "1A", "A-B", "A=B", "A B", "A\n", "\nA", "_A", "Ä", "http_proxy"] {
		denied_only(decision_for_env("default", [name]), "env_not_granted")
	}
}

test_one_wrong_variable_is_enough if {
	decision := decision_for_env("default", ["MODE", "PATH", "mode"])
	denial(decision, "env_not_granted").message == "These variables may not be set: PATH, mode"
}

test_tenants_differ if {
	decision_for_env("ci", ["BUILD_ID", "CI"]).effect == "allow"
	denied_only(decision_for_env("ci", ["CIX"]), "env_not_granted")
	denied_only(decision_for_env("research", ["MODE"]), "env_not_granted")
}

test_nothing_is_harmless_without_the_lists if {
	every lists in [{}, {"denied_names": []}, {"denied_prefixes": []}] {
		decision := decided with input as request
			with input.action.env_names as ["MODE"]
			with data.env as lists
		denied_only(decision, "env_not_granted")
	}
}
