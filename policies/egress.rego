package execgate

# METADATA
# title: The decision about one request that a program sends out
# description: >-
#   The kind egress, which is asked where a tenant's network.decide says request. An allow
#   needs that nothing denies it and that one of the tenant's network.rules opens it now,
#   whatever was granted when the execution began. What deny names is denied here too.
egress_decision := {"effect": "allow", "reasons": []} if {
	count(deny) == 0
	egress_granted
} else := {"effect": "deny", "reasons": deny, "network": {"rules": egress_rules}} if {
	count(deny) > 0
	egress_granted
} else := {"effect": "deny", "reasons": (deny | refused_egress)}

# METADATA
# title: Whether the request is granted
egress_granted if {
	some rule in tenant.network.rules
	_opens(rule, input.egress)
	_carries(rule, input.egress)
}

# METADATA
# title: The tenant's rules that open the request
egress_rules contains rule if {
	some rule in tenant.network.rules
	_opens(rule, input.egress)
	_carries(rule, input.egress)
}

# What is in a connection that is not looked at, nobody can compare.
_carries(rule, request) if {
	request.method == ""
	request.path == ""
	rule.mode in {"tunnel", "forward"}
}

_carries(rule, request) if {
	startswith(request.path, "/")
	rule.mode == "intercept"
	_has_method(object.get(rule, "methods", []), request.method)
	_has_path(object.get(rule, "paths", []), request.path)
}

# None: any.
_has_method([], _)

_has_method(methods, method) if method in methods

_has_path([], _)

_has_path(paths, _) if "*" in paths

_has_path(paths, path) if path in paths

_has_path(paths, path) if {
	some pattern in paths
	endswith(pattern, "/*")
	startswith(path, trim_suffix(pattern, "*"))
}

# METADATA
# title: Requests are granted by rules
# custom:
#   id: egress.granted
#   code: network_not_granted
#   message: "This request is not granted: "
#   remediation: Leave it out. To open it, the security team has to add its host, port, method and path to network.rules of the tenant's data.
refused_egress contains reason(rego.metadata.rule(), _asked, "") if {
	not egress_granted
}

_asked := trim_space($"{method} {host}:{port}{path}") if {
	method := object.get(input, ["egress", "method"], "")
	host := object.get(input, ["egress", "host"], "")
	port := object.get(input, ["egress", "port"], "")
	path := object.get(input, ["egress", "path"], "")
}

# METADATA
# title: No request makes another credential
# description: >-
#   By one that it was lent a program could have a second, which nobody decided about and
#   nobody revokes. data.tokens names where credentials are made, of the usual clouds and
#   identity providers; a destination that it does not know is not safe for that.
# custom:
#   id: egress.tokens
#   code: token_endpoint
#   message: "Credentials are made there, which programs may not do: "
#   remediation: Ask for what the program needs by tools, whose credentials the gateway lends and takes back. Where a tenant has to reach this, the security team has to take it out of the policy's data (tokens), which must have all of its lists.
deny contains reason(rego.metadata.rule(), _asked, "") if {
	input.action.kind == "egress"
	not makes_no_token
}

# METADATA
# title: Whether the request is none for a credential
# description: >-
#   One for a tool of the gateway is none, whatever the tool is called: what the tool sends
#   out is asked about by itself.
makes_no_token if _makes_no_token(input.egress.host, trim_right(lower(input.egress.path), "/"))

makes_no_token if input.egress.host == "tools.execgate"

# The lists are bound first: where one is missing, everything makes tokens.
_makes_no_token(host, path) if {
	hosts := data.tokens.hosts
	below := data.tokens.below
	pattern := concat("|", data.tokens.patterns)
	ends := data.tokens.path_ends
	paths := object.get(data.tokens.paths, host, [])
	not host in hosts
	not strings.any_suffix_match(host, below)
	not regex.match($`^(?:{pattern})$`, host)
	not strings.any_suffix_match(path, ends)
	not strings.any_prefix_match(path, paths)
}
