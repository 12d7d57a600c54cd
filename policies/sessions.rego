package execgate

# METADATA
# title: Sessions
# description: None is granted to anybody.
session_granted if input.agent.session == ""

# METADATA
# title: Each execution starts anew
# custom:
#   id: sessions.granted
#   code: session_not_granted
#   message: Sessions are not granted.
#   remediation: Leave session out. Pass what the program needs of an earlier one in the input or as files.
refused contains reason(rego.metadata.rule(), "", "") if {
	not session_granted
}
