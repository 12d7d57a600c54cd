package execgate_test

import data.execgate

test_every_tool_is_denied_by_default if {
	decision := decided with input as request
		with input.action.tools as ["github"]
	denied_only(decision, "tool_not_granted")
	denial(decision, "tool_not_granted").message == "No credential is granted for these tools: github"
	contains(denial(decision, "tool_not_granted").remediation, "configure Vault")
}

reader := {"mount": "database", "engine": "database", "role": "reader", "vault_policies": ["reader"], "inject": "env", "env_name": "DB"}

registry := {
	"reports-db": {"kind": "egress", "credential": reader},
	"payments-db": {"kind": "egress", "credential": reader},
	"convert": {"kind": "container", "credential": null},
}

using(tools) := decision if {
	decision := execgate.decision with input as request
		with input.action.tools as tools
		with data.images as images
		with data.tools as registry
		with data.tenants as default_with("tools", ["reports-db", "forgotten", "convert"])
}

test_tools_of_the_tenant_are_lent if {
	decision := using(["reports-db"])
	decision.effect == "allow"
	decision.credentials == {object.union(reader, {"tool": "reports-db"})}
}

test_nothing_is_lent_where_nothing_is_asked_for if {
	using([]).effect == "allow"
	using([]).credentials == set()
}

test_other_tools_are_denied if {
	every tool in ["payments-db", "forgotten", "Reports-DB", "", null, 1] {
		denied_only(using([tool]), "tool_not_granted")
	}
	denied_only(using(["reports-db", "payments-db"]), "tool_not_granted")
	denial(using(["reports-db", "payments-db"]), "tool_not_granted").message == "No credential is granted for these tools: payments-db"
}

test_tool_without_a_credential_lends_nothing if {
	every credential in [null, false] {
		decision := execgate.decision with input as request
			with input.action.tools as ["convert"]
			with data.images as images
			with data.tools as {"convert": {"kind": "container", "credential": credential}}
			with data.tenants as default_with("tools", ["convert"])
		decision.effect == "deny"
	}
}

test_tools_that_are_missing_are_denied if {
	decision := execgate.decision with input as json.remove(request, ["/action/tools"])
		with data.images as images
		with data.tools as registry
		with data.tenants as tenants
	denied_only(decision, "tool_not_granted")
}
