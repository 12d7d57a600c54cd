package policy

import (
	"encoding/json"
	"errors"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// decodeDocument decodes an answer strictly: a field that is not known, or of
// another type than it should have, is an error that names it. Whether the
// fields together make sense is for enforce to say.
func decodeDocument(value ast.Value) (document, error) {
	var d document
	err := fields(value, func(key string, v ast.Value) error {
		d.given |= fieldsGiven[key]
		switch key {
		case "effect":
			return d.decodeEffect(v)
		case "reasons":
			return list(v, &d.reasons, reasonOf)
		case "limits":
			return d.decodeLimits(v)
		case "on_exceed":
			return d.decodeOnExceed(v)
		case "image":
			return fields(v, only("digests", func(v ast.Value) error { return stringsOf(v, &d.digests) }))
		case "runtime":
			return stringOf(v, &d.runtime)
		case "env":
			return fields(v, only("allow", func(v ast.Value) error { return stringsOf(v, &d.envAllow) }))
		case "optional_controls":
			return stringsOf(v, &d.optionalControls)
		case "network":
			return fields(v, d.network.decode)
		case "credentials":
			return listUpTo(maxGrants, v, &d.credentials, credentialOf)
		case "session":
			return nullable(v, &d.session, sessionOf)
		case "reuse":
			return oneOf(v, &d.reuse, reuseNever, reusePrincipal)
		case "approval":
			return nullable(v, &d.approval, approvalOf)
		case "obligations":
			return list(v, &d.obligations, obligationOf)
		case "advice":
			return list(v, &d.advice, adviceOf)
		}
		return errUnknownField
	})
	if err != nil {
		return document{}, err
	}
	if d.effect == "" {
		return document{}, problem("effect", "is missing")
	}
	return d, nil
}

func (d *document) decodeEffect(v ast.Value) error {
	return oneOf(v, &d.effect,
		execution.EffectAllow, execution.EffectDeny, execution.EffectRequireApproval)
}

func (d *document) decodeLimits(v ast.Value) error {
	return fields(v, func(key string, v ast.Value) error {
		limit, ok := execution.LimitNamed(key)
		if !ok {
			return errUnknownField
		}
		if err := wholeOf(v, limit.Of(&d.limits)); err != nil {
			return err
		}
		if *limit.Of(&d.limits) == 0 { // elsewhere that says "not given"
			return problem("", "is 0, in which nothing runs")
		}
		return nil
	})
}

func (d *document) decodeOnExceed(v ast.Value) error {
	return fields(v, func(key string, v ast.Value) error {
		if _, ok := execution.LimitNamed(key); !ok {
			return errUnknownField
		}
		var what onExceed
		if err := oneOf(v, &what, exceedClamp, exceedDeny); err != nil {
			return err
		}
		if d.onExceed == nil {
			d.onExceed = make(map[string]onExceed)
		}
		d.onExceed[key] = what
		return nil
	})
}

func reasonOf(v ast.Value, r *execution.Reason) error {
	err := fields(v, func(key string, v ast.Value) error {
		switch key {
		case "code":
			return stringOf(v, &r.Code)
		case "message":
			return stringOf(v, &r.Message)
		case "rule":
			return stringOf(v, &r.Rule)
		case "remediation":
			return stringOf(v, &r.Remediation)
		}
		return errUnknownField
	})
	if err == nil && r.Code == "" {
		return problem("code", "is missing")
	}
	return err
}

func sessionOf(v ast.Value, s *execution.SessionGrant) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "idle_s":
			return wholeOf(v, &s.IdleS)
		case "absolute_s":
			return wholeOf(v, &s.AbsoluteS)
		case "max":
			return wholeOf(v, &s.Max)
		}
		return errUnknownField
	})
}

func approvalOf(v ast.Value, a *approval) error {
	return fields(v, func(key string, v ast.Value) error {
		switch key {
		case "expires_s":
			return wholeOf(v, &a.expiresS)
		case "roles":
			return stringsOf(v, &a.roles)
		}
		return errUnknownField
	})
}

// obligationOf decodes an obligation. One that does not say whether it must be
// met must be.
func obligationOf(v ast.Value, o *execution.Obligation) error {
	o.Must = true
	return obligationFields(v, o, &o.Must)
}

// adviceOf decodes an advice: an obligation that need not be met.
func adviceOf(v ast.Value, o *execution.Obligation) error {
	must := false
	if err := obligationFields(v, o, &must); err != nil {
		return err
	}
	if must {
		return errors.New("what must be done is an obligation and no advice")
	}
	return nil
}

// obligationFields decodes what obligations and advice have in common. What else
// they hold belongs to their type.
func obligationFields(v ast.Value, o *execution.Obligation, must *bool) error {
	args := make(map[string]any)
	err := fields(v, func(key string, v ast.Value) error {
		switch key {
		case "type":
			return stringOf(v, &o.Type)
		case "must":
			return boolOf(v, must)
		}
		plain, err := ast.JSON(v)
		if err != nil {
			return problem("", "is not JSON")
		}
		args[key] = plain
		return nil
	})
	if err != nil {
		return err
	}
	if o.Type == "" {
		return problem("type", "is missing")
	}
	if len(args) == 0 {
		return nil
	}
	if o.Args, err = json.Marshal(args); err != nil {
		return problem("", "is not JSON")
	}
	return nil
}
