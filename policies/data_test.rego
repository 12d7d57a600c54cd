package execgate_test

# What every data.json is held to, whoever its tenants are.

test_every_tenant_has_every_limit if {
	names := object.keys(default_tenant.limits.ceiling)
	count(names) == 13
	every tenant in data.tenants {
		object.keys(tenant.limits["default"]) == names
		object.keys(tenant.limits.ceiling) == names
	}
}

test_no_default_is_above_its_ceiling if {
	every tenant in data.tenants {
		every name, value in tenant.limits["default"] {
			value <= tenant.limits.ceiling[name]
		}
	}
}
