package policy

import (
	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

func (n *network) decode(key string, v ast.Value) error {
	switch key {
	case "rules":
		return listUpTo(maxGrants, v, &n.rules, networkRuleOf)
	case "budget":
		return nullable(v, &n.budget, budgetOf)
	case "decide":
		return oneOf(v, &n.decide, execution.DecideGrant, execution.DecideRequest)
	}
	return errUnknownField
}

func networkRuleOf(v ast.Value, r *execution.NetworkRule) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "host":
			return stringOf(v, &r.Host)
		case "ports":
			return list(v, &r.Ports, portOf)
		case "methods":
			return stringsOf(v, &r.Methods)
		case "paths":
			return stringsOf(v, &r.Paths)
		case "websocket":
			return boolOf(v, &r.WebSocket)
		case "private":
			return boolOf(v, &r.Private)
		case "mode":
			return oneOf(v, &r.Mode, execution.NetworkIntercept, execution.NetworkTunnel, execution.NetworkForward)
		}
		return errUnknownField
	})
}

func budgetOf(v ast.Value, b *execution.NetworkBudget) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "requests":
			return wholeOf(v, &b.Requests)
		case "bytes":
			return wholeOf(v, &b.Bytes)
		case "requests_per_s":
			return wholeOf(v, &b.RequestsPerS)
		case "connections":
			return wholeOf(v, &b.Connections)
		}
		return errUnknownField
	})
}

func credentialOf(v ast.Value, c *execution.Credential) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "tool":
			return stringOf(v, &c.Tool)
		case "mount":
			return stringOf(v, &c.Mount)
		case "engine":
			return stringOf(v, &c.Engine)
		case "path":
			return stringOf(v, &c.Path)
		case "role":
			return stringOf(v, &c.Role)
		case "vault_policies":
			return stringsOf(v, &c.VaultPolicies)
		case "ttl_s":
			return wholeOf(v, &c.TTLS)
		case "max_uses":
			return wholeOf(v, &c.MaxUses)
		case "strict":
			return boolOf(v, &c.Strict)
		case "inject":
			return oneOf(v, &c.Inject, execution.InjectEgress, execution.InjectFile, execution.InjectEnv)
		case "file_path":
			return stringOf(v, &c.FilePath)
		case "env_name":
			return stringOf(v, &c.EnvName)
		case "bind":
			return list(v, &c.Bind, bindingOf)
		}
		return errUnknownField
	})
}

func bindingOf(v ast.Value, b *execution.Binding) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "host":
			return stringOf(v, &b.Host)
		case "port":
			return portOf(v, &b.Port)
		case "methods":
			return stringsOf(v, &b.Methods)
		case "paths":
			return stringsOf(v, &b.Paths)
		case "name":
			return stringOf(v, &b.Name)
		case "mode":
			return oneOf(v, &b.Mode, "bearer", "basic", "header", "query", "sigv4")
		}
		return errUnknownField
	})
}

// portOf decodes a whole number that any port fits in; which are ports is for the
// grant's own rules to say.
func portOf(v ast.Value, out *int) error {
	var n int64
	if err := wholeOf(v, &n); err != nil {
		return err
	}
	if n > 65535 {
		return problem("", "is above 65535")
	}
	*out = int(n)
	return nil
}
