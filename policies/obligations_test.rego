package execgate_test

import data.execgate

redact := {"type": "redact", "must": true, "patterns": ["AKIA[0-9A-Z]{16}"]}

test_obligations_are_the_tenants if {
	decision := execgate.decision with input as request
		with data.tenants as default_with("obligations", [redact])
		with data.images as images
	decision.effect == "allow"
	decision.obligations == {redact}
}

test_tenant_without_obligations_has_none if {
	decision := decided with input as request
	decision.obligations == set()
}
