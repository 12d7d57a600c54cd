package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// forms are what follows the mount in the paths of the engines whose credentials
// are a role's; the first is meant where a credential names none.
var forms = map[string][]string{
	execution.EngineDatabase: {"creds", "static-creds"},
	execution.EnginePKI:      {"issue"},
	execution.EngineAWS:      {"creds", "sts"},
}

// reserved are the first parts of paths that are Vault's own.
var reserved = []string{"sys", "auth", "identity", "cubbyhole"}

// maxPath is the length that a path may have, in bytes.
const maxPath = 512

// Mount is one engine of Vault.
type Mount struct {
	Path   string // without slashes at its ends
	Engine string
	// CommonName is asked for in certificates of the engine pki, with {execution} and
	// {tenant} replaced, in lower case and with - for _; empty: none is, and the role
	// must allow that.
	CommonName string
}

// Mounts are the engines that credentials may be read from.
type Mounts []Mount

func (m Mounts) valid() error {
	seen := make(map[string]bool)
	for _, mount := range m {
		parts, err := segments(mount.Path)
		switch {
		case err != nil:
			return fmt.Errorf("the mount %q: %w", mount.Path, err)
		case slices.Contains(reserved, parts[0]):
			return fmt.Errorf("the mount %q is Vault's own", mount.Path)
		case !slices.Contains(execution.Engines, mount.Engine):
			return fmt.Errorf("the mount %q has no engine of kv, kv2, database, pki, aws, other", mount.Path)
		case mount.CommonName != "" && mount.Engine != execution.EnginePKI:
			return fmt.Errorf("the mount %q makes no certificates and has a common name", mount.Path)
		case seen[mount.Path]:
			return fmt.Errorf("the mount %q is there twice", mount.Path)
		}
		seen[mount.Path] = true
	}
	return nil
}

// Check says whether the credential could be lent from these mounts, asking nobody.
// Its error is of KindDenied with the reason. Whoever loads a policy or a tool calls
// it, and it is asked again at every use.
func (m Mounts) Check(c execution.Credential) error {
	_, _, err := m.resolve(c)
	return err
}

// CheckAll is Check of all that one execution is granted, and refuses a tool that is
// granted twice: nobody could say which of the two is meant. Its error has a reason
// for each that is refused.
func (m Mounts) CheckAll(credentials []execution.Credential) error {
	return checkAll(credentials, m.Check)
}

func checkAll(credentials []execution.Credential, check func(execution.Credential) error) error {
	var reasons []execution.Reason
	seen := make(map[string]bool)
	for _, c := range credentials {
		err := check(c)
		if err == nil && seen[c.Tool] {
			err = none("credential_ambiguous", c.Tool, "is granted twice")
		}
		seen[c.Tool] = true
		if e, ok := errors.AsType[*execution.Error](err); ok {
			reasons = append(reasons, e.Reasons...)
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return &execution.Error{Kind: execution.KindDenied, Code: reasons[0].Code, Reasons: reasons}
}

// resolve returns the mount of the credential, and the path that it is read at.
func (m Mounts) resolve(c execution.Credential) (Mount, string, error) {
	mount, path, err := m.path(c)
	if err == nil {
		err = use(c)
	}
	if err == nil {
		err = policies(c.VaultPolicies)
	}
	if err != nil {
		return Mount{}, "", &execution.Error{
			Kind: execution.KindDenied, Code: "credential_refused",
			Reasons: []execution.Reason{{
				Code:        "credential_refused",
				Message:     fmt.Sprintf("The credential of tool %.200q cannot be lent: %v.", c.Tool, err),
				Rule:        "gateway.vault",
				Remediation: "Whoever writes the policy has to change the credential that it grants, or the operator the mounts of Vault.",
			}},
		}
	}
	return mount, path, nil
}

func (m Mounts) path(c execution.Credential) (Mount, string, error) {
	at := slices.IndexFunc(m, func(mount Mount) bool { return mount.Path == c.Mount })
	if at < 0 {
		return Mount{}, "", fmt.Errorf("its mount %.200q is not one that is configured", c.Mount)
	}
	mount := m[at]
	if c.Engine != "" && c.Engine != mount.Engine {
		return Mount{}, "", fmt.Errorf("its engine is %.200q, and that of its mount %q", c.Engine, mount.Engine)
	}
	var parts []string
	for what, text := range map[string]string{"path": c.Path, "role": c.Role} {
		if text == "" {
			continue
		}
		if _, err := segments(text); err != nil {
			return Mount{}, "", fmt.Errorf("its %s %.200q: %w", what, text, err)
		}
	}
	if c.Path != "" {
		parts = strings.Split(c.Path, "/")
	}
	if c.Role != "" {
		parts = append(parts, c.Role)
	}
	isKV := mount.Engine == execution.EngineKV || mount.Engine == execution.EngineKV2
	form := forms[mount.Engine]
	switch {
	case strings.Contains(c.Role, "/"):
		return Mount{}, "", errors.New("its role has a slash")
	case isKV && c.Role != "":
		return Mount{}, "", fmt.Errorf("the engine %s has no roles", mount.Engine)
	case len(parts) == 0:
		return Mount{}, "", errors.New("it has neither path nor role")
	case form != nil && len(parts) == 1:
		parts = []string{form[0], parts[0]}
	}
	if form != nil && (len(parts) != 2 || !slices.Contains(form, parts[0])) {
		return Mount{}, "", fmt.Errorf("its path in the engine %s is not %s and a role", mount.Engine, strings.Join(form, " or "))
	}
	if mount.Engine == execution.EngineKV2 {
		parts = append([]string{"data"}, parts...)
	}
	return mount, mount.Path + "/" + strings.Join(parts, "/"), nil
}

// use checks how the credential is to be used.
func use(c execution.Credential) error {
	switch {
	case c.Tool == "":
		return errors.New("it names no tool")
	case c.Inject != execution.InjectEgress && c.Inject != execution.InjectFile && c.Inject != execution.InjectEnv:
		return fmt.Errorf("it cannot be injected as %.200q", c.Inject)
	case c.TTLS < 0 || c.MaxUses < 0:
		return errors.New("its ttl_s or max_uses is negative")
	case c.MaxUses > 0 && c.Inject != execution.InjectEgress:
		return errors.New("nobody counts the uses of what the program itself has: leave max_uses out")
	}
	return nil
}

// policies checks those of the token that reads: no more than is named, and never
// everything.
func policies(names []string) error {
	if len(names) == 0 {
		return errors.New("it names no vault_policies")
	}
	for _, name := range names {
		// Vault compares names of policies in lower case.
		if lower := strings.ToLower(name); lower == "root" || lower == "default" {
			return fmt.Errorf("the policy %q is never given to an execution", lower)
		}
		if _, err := segments(name); err != nil {
			return fmt.Errorf("its policy %.200q: %w", name, err)
		}
	}
	return nil
}

// segments splits a path, and refuses whatever could lead elsewhere than it seems.
func segments(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("it has over %d bytes", maxPath)
	}
	parts := strings.Split(path, "/")
	for _, part := range parts {
		switch {
		case part == "":
			return nil, errors.New("a part of it is empty")
		case !segmentPattern.MatchString(part):
			return nil, errors.New("a part of it begins with a dot, is too long or has other characters than letters, digits and _@:=,~.-")
		}
	}
	return parts, nil
}
