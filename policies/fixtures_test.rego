package execgate_test

import data.execgate

# What is decided of the tests' own tenants: data.json may be changed, and no test of a
# rule with it. data_test.rego has what every data.json is held to.
decided := decision if {
	decision := execgate.decision with data.images as images with data.tenants as tenants
}

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

default_tenant := {
	"images": ["python", "node"],
	"languages": ["python", "javascript", "bash"],
	"runtimes": ["runc"],
	"limits": {
		"default": {
			"timeout_ms": 30000, "memory_mib": 256, "cpu_millis": 500, "cpu_shares": 256,
			"pids": 50, "nofile": 256, "tmp_mib": 16, "workspace_mib": 32, "shm_mib": 8,
			"output_kib": 1024, "result_kib": 256, "files_mib": 8, "files_count": 64,
		},
		"ceiling": {
			"timeout_ms": 60000, "memory_mib": 1024, "cpu_millis": 1000, "cpu_shares": 1024,
			"pids": 128, "nofile": 1024, "tmp_mib": 64, "workspace_mib": 64, "shm_mib": 32,
			"output_kib": 1024, "result_kib": 1024, "files_mib": 16, "files_count": 256,
		},
		"on_exceed": {},
	},
	"env": {"allowed": ["[A-Z][A-Z0-9_]*"]},
	"session": {"idle_s": 600, "absolute_s": 3600, "max": 4},
}

tenants := {
	"default": default_tenant,
	"research": object.union(default_tenant, {
		"limits": {"ceiling": {"memory_mib": 4096}},
		"env": {"allowed": []},
		"session": {"idle_s": 1800, "absolute_s": 14400, "max": 8},
	}),
	"ci": object.remove(
		object.union(default_tenant, {
			"limits": {"ceiling": {"timeout_ms": 10000}, "on_exceed": {"timeout_ms": "deny", "memory_mib": "deny"}},
			"env": {"allowed": ["CI", "CI_[A-Z0-9_]*", "BUILD_[A-Z0-9_]*"]},
		}),
		["session"],
	),
}

# Those tenants, with a part of the default one's data in place of its own.
default_with(part, value) := object.union(tenants, {"default": {part: value}})

# Those tenants, without a part of the default one's data.
default_without(path) := json.remove(tenants, [array.concat(["default"], path)])

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
