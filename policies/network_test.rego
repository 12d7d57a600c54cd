package execgate_test

import data.execgate

test_every_destination_is_denied_by_default if {
	every tenant in ["default", "research", "ci"] {
		decision := decided with input as request
			with input.principal.tenant as tenant
			with input.action.network as [{"host": "pypi.org", "port": 443}, {"host": "10.0.0.1", "port": 80}]
		denied_only(decision, "network_not_granted")
		denial(decision, "network_not_granted").message == "These destinations are not granted: 10.0.0.1:80, pypi.org:443"
	}
}

reached := {
	"rules": [
		{"host": "db.example.com", "ports": [5432], "mode": "forward", "private": true},
		{"host": "*.example.org", "ports": [443, 8443], "mode": "intercept"},
	],
	"budget": {"requests": 100, "bytes": 1000000, "requests_per_s": 10, "connections": 4},
}

asking_for(destinations) := decision if {
	decision := execgate.decision with input as request
		with input.action.network as destinations
		with data.images as images
		with data.tenants as default_with("network", reached)
}

test_what_is_asked_for_is_granted_and_nothing_else if {
	decision := asking_for([{"host": "db.example.com", "port": 5432}])
	decision.effect == "allow"
	decision.network == {"rules": {reached.rules[0]}, "budget": reached.budget, "decide": "grant"}
}

test_requests_are_decided_where_the_data_say_so if {
	decision := execgate.decision with input as request
		with input.action.network as [{"host": "db.example.com", "port": 5432}]
		with data.images as images
		with data.tenants as default_with("network", object.union(reached, {"decide": "request"}))
	decision.network.decide == "request"
}

test_names_below_a_wildcard_are_granted if {
	decision := asking_for([{"host": "a.example.org", "port": 443}, {"host": "b.c.example.org", "port": 8443}])
	decision.effect == "allow"
	decision.network.rules == {reached.rules[1]}
}

test_other_destinations_are_denied if {
	every destination in [
		{"host": "db.example.com", "port": 5433},
		{"host": "a.db.example.com", "port": 5432},
		{"host": "example.org", "port": 443},
		{"host": "aexample.org", "port": 443},
		{"host": "a.example.org.evil.net", "port": 443},
		{"host": "a.example.org", "port": 80},
		{"host": "db.example.com"},
		{"port": 5432},
	] {
		denied_only(asking_for([destination]), "network_not_granted")
	}
}

test_one_that_is_not_granted_denies_all if {
	decision := asking_for([{"host": "db.example.com", "port": 5432}, {"host": "evil.net", "port": 443}])
	denied_only(decision, "network_not_granted")
	denial(decision, "network_not_granted").message == "These destinations are not granted: evil.net:443"
}

test_nothing_is_reached_where_nothing_is_asked_for if {
	decision := asking_for([])
	decision.effect == "allow"
	decision.network == {"rules": []}
}

test_network_that_is_missing_is_denied if {
	decision := execgate.decision with input as json.remove(request, ["/action/network"])
		with data.images as images
		with data.tenants as default_with("network", reached)
	denied_only(decision, "network_not_granted")
}

test_rules_without_a_budget_are_incomplete if {
	decision := execgate.decision with input as request
		with input.action.network as [{"host": "db.example.com", "port": 5432}]
		with data.images as images
		with data.tenants as default_with("network", object.remove(reached, ["budget"]))
	denied_only(decision, "decision_incomplete")
}
