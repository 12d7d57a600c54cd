package execgate_test

import data.execgate

# A request that a program sends out and that is granted, with the members of asked in
# place of its own.
leaving(asked) := object.union(sent, {"egress": object.union(sent.egress, asked)})

sent := {
	"v": 1,
	"request": {"id": "ex_01", "time_ns": 1767225600000000000, "trace_id": ""},
	"principal": {"subject": "ak_01", "tenant": "default", "roles": ["caller"], "method": "api_key"},
	"agent": {"name": "triage-bot", "session": "", "purpose": "weekly report"},
	"action": {"kind": "egress"},
	"egress": {"host": "api.example.com", "port": 443, "method": "GET", "path": "/v1/items/7", "bytes": 0},
	"context": {"environment": ""},
}

opened := default_with("network", {"rules": [
	{"host": "api.example.com", "ports": [443, 8443], "methods": ["GET", "POST"], "paths": ["/v1/items/*", "/v1/me"], "mode": "intercept"},
	{"host": "*.example.org", "ports": [443], "mode": "intercept"},
	{"host": "all.example.com", "ports": [443], "paths": ["*"], "mode": "intercept"},
	{"host": "tunnel.example.net", "ports": [443], "mode": "tunnel"},
	{"host": "db.example.net", "ports": [5432], "mode": "forward"},
	{"host": "tools.execgate", "ports": [80], "paths": ["/oauth/*"], "mode": "intercept"},
]})

tokens := {
	"hosts": ["sts.example.org"],
	"below": [".login.example.org"],
	"patterns": ["sts\\.[a-z0-9-]+\\.example\\.org"],
	"path_ends": ["/oauth/token"],
	"paths": {"hub.example.org": ["/login/"]},
}

deciding(asked) := decision if {
	decision := execgate.decision with input as leaving(asked)
		with data.tenants as opened
		with data.tokens as tokens
}

test_granted_request_is_sent if {
	deciding({}) == {"effect": "allow", "reasons": []}
	every asked in [
		{"port": 8443}, {"method": "POST"}, {"path": "/v1/me"}, {"path": "/v1/items/"}, {"path": "/v1/items/7/parts"},
		{"host": "a.example.org", "path": "/any/thing", "method": "DELETE"},
		{"host": "all.example.com", "path": "/any/thing"},
		{"host": "tunnel.example.net", "method": "", "path": ""},
		{"host": "db.example.net", "port": 5432, "method": "", "path": ""},
	] {
		deciding(asked).effect == "allow"
	}
}

test_other_requests_are_denied if {
	every asked in [
		{"host": "evil.example.com"}, {"host": "example.org"}, {"host": ""}, {"port": 80}, {"port": 0},
		{"method": "PUT"}, {"method": "get"}, {"path": "/v1/me/"}, {"path": "/v1/items"}, {"path": "/v1/itemsx"}, {"path": "/"},
		{"method": "", "path": ""}, {"host": "a.example.org", "method": "", "path": ""},
		{"host": "tunnel.example.net"}, {"host": "db.example.net", "port": 5432},
	] {
		denied_only(deciding(asked), "network_not_granted")
	}
}

test_request_that_is_not_granted_is_named if {
	decision := deciding({"method": "PUT"})
	denial(decision, "network_not_granted").message == "This request is not granted: PUT api.example.com:443/v1/items/7"
}

test_missing_field_of_a_request_is_denied if {
	every path in ["egress", "egress/host", "egress/port", "egress/method", "egress/path", "principal", "principal/tenant", "principal/roles"] {
		decision := execgate.decision with input as json.remove(sent, [path])
			with data.tenants as opened
			with data.tokens as tokens
		decision.effect == "deny"
		count(decision.reasons) > 0
	}
}

test_request_of_another_tenant_is_denied if {
	every tenant in ["research", "nobody", ""] {
		decision := execgate.decision with input as object.union(sent, {"principal": {"tenant": tenant}})
			with data.tenants as opened
			with data.tokens as tokens
		denied_only(decision, "network_not_granted")
	}
}

test_role_is_needed_for_what_is_sent if {
	decision := execgate.decision with input as object.union(sent, {"principal": {"roles": ["auditor"]}})
		with data.tenants as opened
		with data.tokens as tokens
	denied_only(decision, "role_missing")
}

test_tokens_are_not_made if {
	every asked in [
		{"host": "sts.example.org"},
		{"host": "acme.login.example.org"},
		{"host": "sts.eu-1.example.org"},
		{"host": "a.example.org", "path": "/tenant/oauth/token"},
		{"host": "a.example.org", "path": "/tenant/OAuth/Token/"},
		{"host": "hub.example.org", "path": "/login/device"},
	] {
		denied_only(deciding(asked), "token_endpoint")
	}
}

test_names_alike_make_none if {
	every asked in [
		{"host": "xsts.example.org"}, {"host": "login.example.org"}, {"host": "sts.eu-1.x.example.org"},
		{"host": "a.example.org", "path": "/oauth/tokens"}, {"host": "a.example.org", "path": "/login/device"},
		{"host": "hub.example.org", "path": "/logins"},
	] {
		deciding(asked).effect == "allow"
	}
}

# A tool is called by its name, which is no path of its destination.
test_calls_of_tools_make_none if {
	deciding({"host": "tools.execgate", "port": 80, "method": "POST", "path": "/oauth/token"}).effect == "allow"
	denied_only(deciding({"host": "tools.execgate", "port": 80, "path": "/token"}), "network_not_granted")
	every host in ["tools.execgate.example.org", "x.tools.execgate.example.org"] {
		denied_only(deciding({"host": host, "path": "/oauth/token"}), "token_endpoint")
	}
}

test_without_a_list_everything_makes_tokens if {
	every list in ["hosts", "below", "patterns", "path_ends", "paths"] {
		decision := execgate.decision with input as sent
			with data.tenants as opened
			with data.tokens as object.remove(tokens, [list])
		denied_only(decision, "token_endpoint")
	}
}

# What is added to deny counts for what programs send, too; and a denial of what is
# granted holds the rule, for modes.
test_denial_of_what_is_granted_holds_the_rule if {
	decision := execgate.decision with input as sent
		with execgate.deny as {local}
		with data.tenants as opened
		with data.tokens as tokens
	denied_only(decision, "local")
	{rule.host | some rule in decision.network.rules} == {"api.example.com"}
}

test_denial_of_what_is_not_granted_says_both if {
	decision := execgate.decision with input as leaving({"port": 80})
		with execgate.deny as {local}
		with data.tenants as opened
		with data.tokens as tokens
	{reason.code | some reason in decision.reasons} == {"local", "network_not_granted"}
	not decision.network
}

test_an_execution_is_no_request if {
	decision := execgate.decision with input as object.union(sent, {"action": {"kind": "execute"}})
		with data.tenants as opened
		with data.tokens as tokens
	decision.effect == "deny"
}
