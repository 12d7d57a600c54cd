package policy

import "github.com/open-policy-agent/opa/v1/ast"

func (n *network) decode(key string, v ast.Value) error {
	switch key {
	case "rules":
		return list(v, &n.rules, networkRuleOf)
	case "budget":
		return nullable(v, &n.budget, budgetOf)
	}
	return errUnknownField
}

func networkRuleOf(v ast.Value, r *networkRule) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "host":
			return stringOf(v, &r.host)
		case "ports":
			return list(v, &r.ports, wholeOf)
		case "methods":
			return stringsOf(v, &r.methods)
		case "paths":
			return stringsOf(v, &r.paths)
		case "websocket":
			return boolOf(v, &r.websocket)
		case "private":
			return boolOf(v, &r.private)
		case "mode":
			return oneOf(v, &r.mode, "intercept", "tunnel", "forward")
		}
		return errUnknownField
	})
}

func budgetOf(v ast.Value, b *budget) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "requests":
			return wholeOf(v, &b.requests)
		case "bytes":
			return wholeOf(v, &b.bytes)
		case "requests_per_s":
			return wholeOf(v, &b.requestsPerS)
		case "connections":
			return wholeOf(v, &b.connections)
		}
		return errUnknownField
	})
}

func credentialOf(v ast.Value, c *credential) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "tool":
			return stringOf(v, &c.tool)
		case "mount":
			return stringOf(v, &c.mount)
		case "engine":
			return stringOf(v, &c.engine)
		case "path":
			return stringOf(v, &c.path)
		case "role":
			return stringOf(v, &c.role)
		case "vault_policies":
			return stringsOf(v, &c.vaultPolicies)
		case "ttl_s":
			return wholeOf(v, &c.ttlS)
		case "max_uses":
			return wholeOf(v, &c.maxUses)
		case "strict":
			return boolOf(v, &c.strict)
		case "inject":
			return oneOf(v, &c.inject, "egress", "file", "env")
		case "file_path":
			return stringOf(v, &c.filePath)
		case "env_name":
			return stringOf(v, &c.envName)
		case "bind":
			return list(v, &c.bind, bindingOf)
		}
		return errUnknownField
	})
}

func bindingOf(v ast.Value, b *binding) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "host":
			return stringOf(v, &b.host)
		case "port":
			return wholeOf(v, &b.port)
		case "methods":
			return stringsOf(v, &b.methods)
		case "paths":
			return stringsOf(v, &b.paths)
		case "name":
			return stringOf(v, &b.name)
		case "mode":
			return oneOf(v, &b.mode, "bearer", "basic", "header", "query", "sigv4")
		}
		return errUnknownField
	})
}
