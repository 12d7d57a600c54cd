package execgate_test

# A request that is granted, from which each test departs.
request := {
	"v": 1,
	"request": {"id": "ex_01", "time_ns": 1767225600000000000, "trace_id": ""},
	"principal": {"subject": "ak_01", "tenant": "default", "roles": ["caller"], "method": "api_key"},
	"agent": {"name": "triage-bot", "session": "", "purpose": "weekly report"},
	"action": {
		"kind": "execute",
		"language": "python",
		"code": {"sha256": "00", "bytes": 1},
		"image": {"name": "python", "digest": digest},
		"runtime": "",
		"request_sha256": "00",
		"env_names": [],
		"files": [],
		"limits": {},
		"network": [],
		"tools": [],
	},
	"context": {"counters": object.union(unused, {"principal": unused}), "environment": ""},
}

unused := {"running": 0, "executions_1m": 0, "cpu_ms_1h": 0, "egress_bytes_1h": 0, "leases_1h": 0}

digest := "sha256:0000000000000000000000000000000000000000000000000000000000000001"

images := {"python": digest}

# The one denial with a code.
denial(decision, code) := found if {
	decision.effect == "deny"
	some found in decision.reasons
	found.code == code
}

# Whether nothing else is wrong.
denied_only(decision, code) if {
	decision.effect == "deny"
	{reason.code | some reason in decision.reasons} == {code}
}
