package execgate_test

import data.execgate

# The gateway's tools; of these only the first two are granted to the default tenant.
tools := {
	"adder": {"kind": "container", "image": "adder", "network": []},
	"weather": {
		"kind": "http",
		"network": [{"host": "api.weather.example", "port": 443}],
		"credential": {"tool": "weather", "engine": "kv2", "mount": "secret", "path": "weather"},
	},
	"database": {"kind": "egress", "network": [], "credential": {"tool": "database"}},
	"secret": {"kind": "container", "image": "adder", "network": []},
}

calling(changes) := decision if {
	asked := object.union(request, {"action": object.union(
		{
			"kind": "tool_call", "tool": "adder", "args": {"a": 1}, "args_sha256": "00",
			"language": "", "image": {"name": "adder", "digest": digest},
		},
		changes,
	)})
	decision := execgate.decision with input as asked
		with data.tenants as default_with("tools", ["adder", "weather", "database", "gone"])
		with data.images as {"adder": digest, "python": digest}
		with data.tools as tools
}

# A call of the tool of the kind http, which has no image.
requesting(changes) := calling(object.union(
	{"tool": "weather", "image": {"name": "", "digest": ""}},
	changes,
))

test_granted_tool_is_called_in_its_own_image if {
	decision := calling({})
	decision.effect == "allow"
	decision.image.digests == [digest]
}

test_tool_is_asked_about_without_arguments if {
	asked := object.union(request, {"action": {
		"kind": "tool_call", "tool": "adder",
		"language": "", "image": {"name": "adder", "digest": digest},
	}})
	decision := execgate.decision with input as asked
		with data.tenants as default_with("tools", ["adder"])
		with data.images as {"adder": digest}
		with data.tools as tools
	decision.effect == "allow"
}

# One that there is and one that there is not are denied alike, but for the name.
test_other_tools_are_denied_alike if {
	every name in ["secret", "no-such-tool", "gone", "Adder", ""] {
		decision := calling({"tool": name})
		denied_only(decision, "tool_not_granted")
		denial(decision, "tool_not_granted").message == concat("", ["This tool is not granted: ", name])
	}
}

test_call_of_no_tool_is_denied if {
	asked := json.remove(
		object.union(request, {"action": {"kind": "tool_call", "language": ""}}),
		["action/tool"],
	)
	decision := decided with input as asked with data.tools as tools
	denied_only(decision, "tool_not_granted")
}

test_tenant_without_tools_calls_none if {
	decision := execgate.decision with input as object.union(request, {"action": {
		"kind": "tool_call", "tool": "adder",
		"language": "", "image": {"name": "adder", "digest": digest},
	}})
		with data.tenants as tenants
		with data.images as {"adder": digest}
		with data.tools as tools
	denied_only(decision, "tool_not_granted")
}

test_tool_runs_in_no_other_image if {
	decision := calling({"image": {"name": "python", "digest": digest}})
	decision.effect == "deny"
}

test_image_of_a_tool_is_open_to_nothing_else if {
	every kind in ["execute", "session"] {
		denied_only(calling({"kind": kind}), "image_not_granted")
	}
}

test_tool_without_a_call_is_denied if {
	decision := requesting({"tool": "database"})
	denied_only(decision, "tool_unsupported")
	denial(decision, "tool_unsupported").message == "This tool is granted, but this gateway cannot call it: database is of the kind egress"
}

test_granted_request_is_made_without_an_image if {
	decision := requesting({})
	decision.effect == "allow"
	decision.image.digests == []
	decision.network == {"rules": []}
	decision.credentials == set()
}

# What a request asks for is granted to it as to a program.
test_request_reaches_what_is_granted if {
	asked := object.union(request, {"action": {
		"kind": "tool_call", "tool": "weather", "language": "", "image": {"name": "", "digest": ""},
		"network": [{"host": "api.weather.example", "port": 443}], "tools": ["weather"],
	}})
	rule := {"host": "api.weather.example", "ports": [443], "mode": "intercept", "methods": ["GET"]}
	budget := {"requests": 10, "bytes": 1000000, "requests_per_s": 5, "connections": 2}
	granting := execgate.decision with input as asked
		with data.tenants as object.union(default_with("tools", ["weather"]), {"default": {"network": {"rules": [rule], "budget": budget}}})
		with data.images as {}
		with data.tools as tools
	granting.effect == "allow"
	granting.network == {"rules": {rule}, "budget": budget, "decide": "grant"}
	granting.credentials == {tools.weather.credential}

	refusing := execgate.decision with input as asked
		with data.tenants as default_with("tools", ["weather"])
		with data.images as {}
		with data.tools as tools
	denied_only(refusing, "network_not_granted")
}

test_request_is_open_to_nothing_that_runs if {
	requesting({"image": {"name": "adder", "digest": digest}}).effect == "deny"
	requesting({"image": {"name": "", "digest": digest}}).effect == "deny"
	requesting({"tool": "adder"}).effect == "deny"
	every kind in ["execute", "session"] {
		denied_only(requesting({"kind": kind}), "image_not_granted")
	}
}

test_tools_need_no_grant_of_sessions if {
	every session, effect in {"": "allow", "se_01": "deny"} {
		asked := object.union(request, {
			"agent": {"session": session},
			"action": {
				"kind": "tool_call", "tool": "adder",
				"language": "", "image": {"name": "adder", "digest": digest},
			},
		})
		decision := execgate.decision with input as asked
			with data.tenants as object.union(
				default_without(["session"]),
				{"default": {"tools": ["adder"]}},
			)
			with data.images as {"adder": digest}
			with data.tools as tools
		decision.effect == effect
	}
}
