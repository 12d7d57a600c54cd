# METADATA
# title: What an agent may run
# description: >-
#   One file per concern. Each concern has a rule that holds only where its part of
#   the request is granted (image_granted, env_granted, …) and a deny rule that says
#   what to do where it does not hold. An allow needs every grant and no denial, so a
#   field that is missing, a rule that is undefined and a tenant without data all deny.
#
#   Each deny rule's metadata gives its id, code, message and remediation; words in
#   angle brackets there are filled in by the rule.
package execgate

# METADATA
# title: The decision
# description: What the gateway asks for.
# entrypoint: true
decision := granted if {
	allow
} else := {"effect": "deny", "reasons": deny}

# METADATA
# title: Whether everything that was asked for is granted
allow if {
	count(deny) == 0
	kind_granted
	role_granted
	image_granted
	language_granted
	env_granted
	network_granted
	tools_granted
	session_granted
}

# METADATA
# title: The decision of an allow
# description: Undefined, and so a denial, where any of its parts is.
granted := {
	"effect": "allow",
	"reasons": [],
	"limits": limits,
	"on_exceed": on_exceed,
	"image": {"digests": [image_digest]},
	"runtime": runtime,
	"env": {"allow": env_allowed},
	"optional_controls": [],
	"network": {"rules": []},
	"credentials": [],
	"session": null,
	"reuse": "never",
	"obligations": [],
	"advice": [],
}

# METADATA
# title: A denial's reason
# description: >-
#   Made of the metadata of the rule that denies. It is filled in by one pass, so that a
#   value which looks like a placeholder stays as it is.
reason(metadata, values) := {
	"code": metadata.custom.code,
	"message": strings.replace_n(values, metadata.custom.message),
	"rule": metadata.custom.id,
	"remediation": strings.replace_n(values, metadata.custom.remediation),
}

# METADATA
# title: The elements of a list, to be read
listed(elements) := concat(", ", sort(elements)) if {
	count(elements) > 0
} else := "none"
