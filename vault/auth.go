package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/execution"
)

// AuthMethod is a way for the gateway to log in to Vault.
type AuthMethod string

// The methods.
const (
	AuthTokenFile  AuthMethod = "token_file" // a token that something else keeps in a file, such as Vault's agent
	AuthAppRole    AuthMethod = "approle"
	AuthKubernetes AuthMethod = "kubernetes"
	AuthJWT        AuthMethod = "jwt" // also OIDC's tokens
)

// serviceAccountToken is where Kubernetes puts a pod's token
// (kubernetes.io/docs/concepts/security/service-accounts).
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// maxKeyFile bounds what is read from a file with a key, in bytes.
const maxKeyFile = 64 << 10

// Auth says how the gateway logs in. Files are read at every login: what rotates
// them needs to tell nobody.
type Auth struct {
	Method AuthMethod
	// Mount is that of the method, below auth/; empty: its usual name.
	Mount string
	// File holds the token of AuthTokenFile, the secret_id of AuthAppRole, or the
	// signed token of AuthKubernetes (empty: the pod's) and AuthJWT.
	File string
	// Role is that of AuthKubernetes and AuthJWT; of AuthJWT empty: the method's own.
	Role string
	// RoleID is that of AuthAppRole.
	RoleID string
}

func (a Auth) filled() (Auth, error) {
	switch a.Method {
	case AuthTokenFile:
		if a.Mount != "" || a.Role != "" || a.RoleID != "" {
			return a, errors.New("the login by token file has no mount and no role")
		}
	case AuthAppRole:
		if a.RoleID == "" || a.Role != "" {
			return a, errors.New("the login by approle needs its role_id, and no role")
		}
		orDefault(&a.Mount, "approle")
	case AuthKubernetes:
		if a.Role == "" || a.RoleID != "" {
			return a, errors.New("the login by kubernetes needs its role, and no role_id")
		}
		orDefault(&a.Mount, "kubernetes")
		orDefault(&a.File, serviceAccountToken)
	case AuthJWT:
		if a.RoleID != "" {
			return a, errors.New("the login by jwt has no role_id")
		}
		orDefault(&a.Mount, "jwt")
	default:
		return a, fmt.Errorf("the login %.100q is none of token_file, approle, kubernetes, jwt", a.Method)
	}
	if a.File == "" {
		return a, fmt.Errorf("the login by %s needs a file", a.Method)
	}
	if a.Mount != "" {
		if _, err := segments(a.Mount); err != nil {
			return a, fmt.Errorf("the mount %.200q of the login: %w", a.Mount, err)
		}
	}
	return a, nil
}

// login returns a token of the gateway's own with what Vault says of it.
func (a Auth) login(ctx context.Context, c *client) (*api.Secret, error) {
	key, err := readKey(a.File)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	switch a.Method {
	case AuthTokenFile:
		return lookup(ctx, c, key)
	case AuthAppRole:
		body = map[string]any{"role_id": a.RoleID, "secret_id": key.Reveal()}
	default:
		body = map[string]any{"jwt": key.Reveal()}
		if a.Role != "" {
			body["role"] = a.Role
		}
	}
	answer, err := c.as(execution.Secret{}).Logical().WriteWithContext(ctx, "auth/"+a.Mount+"/login", body)
	if err != nil {
		return nil, fault("log in", "check the login's role, file and mount", err)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return nil, errNoSense("log in")
	}
	return answer, nil
}

// lookup asks for what Vault knows of the token, in the form of a login's answer.
func lookup(ctx context.Context, c *client, token execution.Secret) (*api.Secret, error) {
	answer, err := c.as(token).Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return nil, fault("look up the gateway's token", "put a token that is valid into the file", err)
	}
	if answer == nil || answer.Data["ttl"] == nil {
		return nil, errNoSense("look up the gateway's token")
	}
	ttl, err := answer.TokenTTL()
	if err != nil {
		return nil, errNoSense("look up the gateway's token")
	}
	renewable, err := answer.TokenIsRenewable()
	if err != nil {
		return nil, errNoSense("look up the gateway's token")
	}
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: token.Reveal(), LeaseDuration: int(ttl.Seconds()), Renewable: renewable}}, nil
}

// readKey reads a file that holds one line.
func readKey(path string) (execution.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return execution.Secret{}, keyFault(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return execution.Secret{}, keyFault(err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" || len(text) > maxKeyFile || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return execution.Secret{}, keyFault(fmt.Errorf("%s does not hold one line with a key", path))
	}
	return execution.NewSecret(key), nil
}

func keyFault(err error) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: CodeRefused, Err: fmt.Errorf("read the file to log in to Vault with: %w", err),
		Detail: "the gateway cannot log in to Vault: the operator has to mend the file that it logs in with",
	}
}

// errNoSense is an answer of Vault, or of what is in its place, that lacks what
// belongs there.
func errNoSense(doing string) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: CodeUnavailable, RetryAfter: retryUnavailable,
		Detail: "Vault's answer makes no sense: the operator has to check what is at its address",
		Err:    fmt.Errorf("%s: the answer lacks what belongs there", doing),
	}
}
