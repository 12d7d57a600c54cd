package execgate_test

import data.execgate

test_granted_request_is_allowed if {
	decision := decided with input as request
	decision.effect == "allow"
	decision.reasons == []
	decision.image.digests == [digest]
	decision.runtime == "runc"
	decision.session == {"idle_s": 600, "absolute_s": 3600, "max": 4}
	decision.reuse == "never"
	decision.network.rules == []
	decision.credentials == set()
}

test_empty_input_is_denied if {
	decision := decided with input as {}
	decision.effect == "deny"
	count(decision.reasons) > 0
}

test_tenant_without_data_is_denied if {
	decision := execgate.decision with input as request
		with data.images as images
		with data.tenants as {"default": {}}
	decision.effect == "deny"
	denial(decision, "image_not_granted").remediation == "Ask for one of the images that are granted: "
}

# Each part of the request in turn: a field that is missing is not granted.
test_missing_field_is_denied if {
	every path in [
		["principal", "tenant"], ["principal", "roles"], ["agent", "session"],
		["action", "kind"], ["action", "language"], ["action", "image"], ["action", "runtime"],
		["action", "env_names"], ["action", "limits"], ["action", "network"], ["action", "tools"],
	] {
		decision := decided with input as json.remove(request, [concat("/", path)])
		decision.effect == "deny"
		count(decision.reasons) > 0
	}
}

test_every_reason_can_be_acted_on if {
	decision := decided with input as {}
	every reason in decision.reasons {
		reason.code != ""
		reason.rule != ""
		reason.message != ""
		reason.remediation != ""
	}
}

# A denial of what is granted says what would be granted without the rule that denies.
test_denial_holds_the_grant if {
	decision := decided with input as request
		with execgate.deny as {{"code": "local", "message": "m", "rule": "local.one", "remediation": "r"}}
	denied_only(decision, "local")
	decision.runtime == "runc"
	decision.image.digests
}
