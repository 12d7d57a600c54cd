package gateway

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// The bounds of a credential in the registry.
const (
	maxVaultPath     = 512
	maxVaultPolicies = 16
	maxBindings      = 16
	maxCredentialTTL = 7 * 24 * 60 * 60 // seconds
	maxCredentialUse = 1_000_000
	maxVaultName     = 64 // bytes of a role, or a policy
)

// checkCredential reports what is wrong with the credential that the tool asks for: by
// the field, what execution.Credential's own Validate and the lender would refuse later.
func (t *tool) checkCredential(f *faults) {
	if t.Credential == nil {
		return
	}
	c := *t.Credential // whoever gave it keeps theirs
	c.Tool = t.Name
	c.Bind = slices.Clone(c.Bind)
	t.Credential = &c
	before := len(f.fields)
	hasRoles := slices.Contains([]string{execution.EngineDatabase, execution.EnginePKI, execution.EngineAWS}, c.Engine)
	if !slices.Contains(execution.Engines, c.Engine) {
		f.addf("/credential/engine", "must be one of %s", strings.Join(execution.Engines, ", "))
	}
	checkVaultPath(c.Mount, "/credential/mount", f)
	switch {
	case c.Role != "" && !hasRoles:
		f.add("/credential/role", "has no meaning but for the engines database, pki and aws")
	case c.Role != "" && !validName(c.Role, maxVaultName, "._-"):
		f.add("/credential/role", "must be the name of a role")
	case c.Role != "" && c.Path != "":
		f.add("/credential/path", "cannot stand beside role, which stands for the engine's own path to it")
	case c.Role == "" && c.Path == "" && hasRoles:
		f.add("/credential/role", "is required")
	case c.Role == "":
		checkVaultPath(c.Path, "/credential/path", f)
	}
	checkVaultPolicies(c.VaultPolicies, f)
	if c.TTLS < 0 || c.TTLS > maxCredentialTTL {
		f.addf("/credential/ttl_s", "must be from 1 to %d, or left out: then it lives as long as the execution", maxCredentialTTL)
	}
	if c.MaxUses < 0 || c.MaxUses > maxCredentialUse {
		f.addf("/credential/max_uses", "must be from 1 to %d, or left out", maxCredentialUse)
	}
	t.checkInjection(c, f)
	if len(f.fields) == before && execution.ValidToolName(c.Tool) && c.Validate() != nil {
		f.add("/credential", "is not one that can be lent") // by a rule that is not told by its field above
	}
}

// checkVaultPath takes a path in Vault: clean, and nothing in it that a server, a
// proxy or a policy of Vault might read in another way.
func checkVaultPath(p, pointer string, f *faults) {
	odd := func(r rune) bool {
		return r > 0x7f || !isAlphanumeric(byte(r)) && !strings.ContainsRune("/._@=-", r)
	}
	switch {
	case p == "":
		f.add(pointer, "is required")
	case len(p) > maxVaultPath:
		f.addf(pointer, "must have at most %d bytes", maxVaultPath)
	case strings.ContainsFunc(p, odd):
		f.add(pointer, "must be a path of letters, digits, '.', '_', '@', '=', '-' and '/'")
	case path.IsAbs(p) || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../"):
		f.add(pointer, "must be clean and not climb: no '.', '..' or empty part, no '/' at either end")
	}
}

func checkVaultPolicies(names []string, f *faults) {
	const pointer = "/credential/vault_policies"
	if len(names) == 0 || len(names) > maxVaultPolicies {
		f.addf(pointer, "must name 1 to %d policies of Vault: the token that reads the credential has these and no others", maxVaultPolicies)
		return
	}
	for i, name := range names {
		at := fmt.Sprintf("%s/%d", pointer, i)
		switch {
		case !validName(name, maxVaultName, "._-"):
			f.add(at, "must be the name of a policy of Vault")
		case strings.EqualFold(name, "root") || strings.EqualFold(name, "default"):
			f.add(at, "must be neither root nor default")
		case slices.Contains(names[:i], name):
			f.add(at, "stands twice")
		}
	}
}

// checkInjection reports what is wrong with how the credential is handed over. What
// belongs to another way is refused: it would look as if it did something.
func (t *tool) checkInjection(c execution.Credential, f *faults) {
	lack := func(has bool, name string) {
		if has {
			f.addf("/credential/"+name, "has no meaning with inject: %s", c.Inject)
		}
	}
	switch c.Inject {
	case execution.InjectEgress:
		lack(c.FilePath != "", "file_path")
		lack(c.EnvName != "", "env_name")
		t.checkBindings(c.Bind, f)
	case execution.InjectFile:
		lack(c.EnvName != "", "env_name")
		t.lackEgress(c, lack)
		if !execution.ValidSecretPath(c.FilePath) {
			f.add("/credential/file_path", "must be a clean path below /tmp, or /workspace and not /workspace/out")
		}
	case execution.InjectEnv:
		lack(c.FilePath != "", "file_path")
		t.lackEgress(c, lack)
		if err := c.Validate(); err != nil && strings.HasPrefix(err.Error(), "env_name ") {
			f.add("/credential/env_name", "must be the name of a variable, in upper case, and not of one that steers how programs are run")
		}
	default:
		f.add("/credential/inject", "must be egress, file or env")
	}
}

// lackEgress reports what only a credential of InjectEgress has.
func (t *tool) lackEgress(c execution.Credential, lack func(bool, string)) {
	lack(len(c.Bind) > 0, "bind")
	lack(c.MaxUses != 0, "max_uses")
	lack(c.Strict, "strict")
}

// bindingModes are those of execution.Binding, and whether they need a name.
var bindingModes = map[string]bool{"bearer": false, "basic": false, "header": true, "query": true, "sigv4": false}

func (t *tool) checkBindings(bind []execution.Binding, f *faults) {
	if len(bind) == 0 || len(bind) > maxBindings {
		f.addf("/credential/bind", "must have 1 to %d entries: the requests that it is set on", maxBindings)
		return
	}
	for i := range bind {
		b, at := &bind[i], fmt.Sprintf("/credential/bind/%d", i)
		d, wrong := parseDestination(destinationText(execution.Destination{Host: b.Host, Port: b.Port}))
		b.Host = d.Host
		switch {
		case wrong != "":
			f.add(at, "with its host and port "+wrong)
		case !slices.Contains(t.Network, d):
			f.addf(at, "must name a host and port that stand in network too: %s does not", destinationText(d))
		}
		checkMethods(b.Methods, at+"/methods", f)
		checkURLPaths(b.Paths, at+"/paths", f)
		switch needsName, known := bindingModes[b.Mode]; {
		case !known:
			f.add(at+"/mode", "must be bearer, basic, header, query or sigv4")
		case needsName && !validName(b.Name, 64, "_-"):
			f.add(at+"/name", "must be the name of the header or the query parameter: 1 to 64 letters, digits, '_' and '-'")
		case b.Mode == "sigv4" && b.Name != "" && !signedFor.MatchString(b.Name):
			f.add(at+"/name", "must be the service and region that are signed for, such as s3/eu-west-1; leave it out where the host names them")
		case b.Mode != "sigv4" && !needsName && b.Name != "":
			f.addf(at+"/name", "has no meaning with the mode %s", b.Mode)
		case b.Mode == "header" && slices.Contains(framing, strings.ToLower(b.Name)):
			f.add(at+"/name", "must not be a header that says how a request is carried")
		}
	}
}

// signedFor is what the name of a binding of sigv4 is.
var signedFor = regexp.MustCompile(`^[a-z0-9-]{1,64}/[a-z0-9-]{1,64}$`)

// framing are headers that a credential in them would break, or smuggle requests by.
var framing = []string{
	"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect",
	"keep-alive", "proxy-connection", "proxy-authorization",
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func checkMethods(names []string, at string, f *faults) {
	for i, name := range names {
		if !slices.Contains(methods, name) || slices.Contains(names[:i], name) {
			f.addf(fmt.Sprintf("%s/%d", at, i), "must be one of %s, each once", strings.Join(methods, ", "))
		}
	}
}

// checkURLPaths takes the paths of a binding. One may end in /*, for all below it.
func checkURLPaths(paths []string, at string, f *faults) {
	for i, p := range paths {
		stem := strings.TrimSuffix(p, "/*")
		if len(p) > maxVaultPath || !strings.HasPrefix(p, "/") || strings.ContainsAny(stem, "*?#%\\ ") ||
			stem != "" && path.Clean(stem) != stem || strings.ContainsFunc(p, isNoPrint) {
			f.addf(fmt.Sprintf("%s/%d", at, i), "must be a clean path that begins with '/', and may end in /*")
		}
	}
}

func isNoPrint(r rune) bool { return r <= ' ' || r >= 0x7f }
