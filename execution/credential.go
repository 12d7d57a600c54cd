package execution

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Inject says how a credential reaches what it is for.
type Inject string

// The ways. The zero Inject is none of them.
const (
	InjectEgress Inject = "egress" // the gateway sets it on requests that leave; the program never has it
	InjectFile   Inject = "file"   // a file that only the program's user can read
	InjectEnv    Inject = "env"    // variables of the program
)

// Credential is one credential that policy grants to an execution: where it comes
// from, for how long, and how it is used.
type Credential struct {
	Tool string `json:"tool"`
	// Mount and Path say where in Vault it is read; Engine is that of the mount: kv
	// (version 1), kv2, database, pki, aws, or other for any path that answers with a
	// lease.
	Mount  string `json:"mount,omitempty"`
	Engine string `json:"engine,omitempty"`
	Path   string `json:"path,omitempty"`
	Role   string `json:"role,omitempty"` // of the engines that have roles; it is the end of the path
	// VaultPolicies are those of the token that reads it.
	VaultPolicies []string `json:"vault_policies,omitempty"`
	TTLS          int64    `json:"ttl_s,omitempty"` // the longest that it may live; 0: as long as the execution
	MaxUses       int64    `json:"max_uses,omitempty"`
	Strict        bool     `json:"strict,omitempty"` // an answer that cannot be scrubbed is withheld
	Inject        Inject   `json:"inject,omitempty"`
	FilePath      string   `json:"file_path,omitempty"` // of InjectFile
	// EnvName is of InjectEnv: the variable of a field is EnvName, "_" and the
	// field's name in upper case.
	EnvName string    `json:"env_name,omitempty"`
	Bind    []Binding `json:"bind,omitempty"`
}

// Binding says which requests a credential of InjectEgress is set on, and where.
type Binding struct {
	Host    string   `json:"host"`
	Port    int      `json:"port"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Name    string   `json:"name,omitempty"` // of the header or query parameter; of sigv4, service/region where the host does not tell
	Mode    string   `json:"mode"`           // bearer, basic, header, query or sigv4
}

// Loan is what one execution is to be lent.
type Loan struct {
	Execution string
	// Principal is who asked for the execution, by the HTTP request RequestID of TraceID:
	// for the records.
	Principal   Principal
	RequestID   string
	TraceID     string
	Credentials []Credential
	// Lasts is the longest that the execution can take: nothing needs to live longer.
	Lasts time.Duration
}

// Lent is what one execution was lent. The zero Lent is nothing.
type Lent struct {
	Leases []Lease
	// Exposed are the credentials that the program itself is given, with their values.
	Exposed []Exposed
}

// Exposed is a credential of InjectFile or InjectEnv with its value.
type Exposed struct {
	Credential Credential
	// Fields are the value as Vault gave it, by name: of the engine database
	// username and password. What was no text is there as JSON.
	Fields map[string]Secret
}

// The engines that a credential can be read from.
const (
	EngineKV       = "kv"  // version 1
	EngineKV2      = "kv2" // version 2
	EngineDatabase = "database"
	EnginePKI      = "pki"
	EngineAWS      = "aws"
	EngineOther    = "other" // whatever answers with a lease
)

// Engines are all of them.
var Engines = []string{EngineKV, EngineKV2, EngineDatabase, EnginePKI, EngineAWS, EngineOther}

var (
	// A path of Vault is segments of these characters, none of them "." or "..": what
	// a URL or a policy of Vault reads otherwise (%, *, +, ?, #, a space) is in none.
	vaultPath    = regexp.MustCompile(`^[A-Za-z0-9_.@=-]+(/[A-Za-z0-9_.@=-]+)*$`)
	toolName     = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	variableName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,62}$`)
)

// ValidToolName reports whether a tool can have that name: up to 63 lower-case
// letters, digits, "_" and "-", the first no sign.
func ValidToolName(name string) bool { return toolName.MatchString(name) }

// Validate reports what of a credential is missing or makes no sense, in words that
// name the field. Which mounts there are is for the lender to say.
func (c Credential) Validate() error {
	switch {
	case !ValidToolName(c.Tool):
		return fmt.Errorf("tool %.100q is not a name of a tool", c.Tool)
	case !slices.Contains(Engines, c.Engine):
		return fmt.Errorf("engine %.100q is none of %s", c.Engine, strings.Join(Engines, ", "))
	case !validVaultPath(c.Mount):
		return fmt.Errorf("mount %.200q is not a path", c.Mount)
	case c.Path == "" && c.Role == "":
		return errors.New("path and role are missing, of which an engine needs one")
	case c.Path != "" && c.Role != "":
		return errors.New("path and role are both given: role stands for the engine's own path to it")
	case c.Path != "" && !validVaultPath(c.Path):
		return fmt.Errorf("path %.200q is not a path", c.Path)
	case c.Role != "" && (!validVaultPath(c.Role) || strings.Contains(c.Role, "/")):
		return fmt.Errorf("role %.200q is not the name of a role", c.Role)
	case c.Role != "" && !slices.Contains([]string{EngineDatabase, EnginePKI, EngineAWS}, c.Engine):
		return fmt.Errorf("the engine %s has no roles: give a path", c.Engine)
	case len(c.VaultPolicies) == 0:
		return errors.New("vault_policies is empty, and a token of no policy reads nothing")
	case c.TTLS < 0 || c.MaxUses < 0:
		return errors.New("ttl_s or max_uses is negative")
	}
	for _, name := range c.VaultPolicies {
		if !validVaultPath(name) || name == "root" || name == "default" {
			return fmt.Errorf("vault_policies has %.100q, which no execution may have", name)
		}
	}
	return c.validateInject()
}

func validVaultPath(p string) bool {
	return len(p) <= 512 && vaultPath.MatchString(p) && path.Clean("/"+p) == "/"+p
}

func (c Credential) validateInject() error {
	if c.Inject != InjectEgress && (len(c.Bind) > 0 || c.MaxUses > 0 || c.Strict) {
		return fmt.Errorf("bind, max_uses and strict are of the inject %q", InjectEgress)
	}
	switch c.Inject {
	case InjectEgress:
		if len(c.Bind) == 0 {
			return errors.New("bind is empty, so that it could be used nowhere")
		}
		for i, b := range c.Bind {
			if err := b.validate(); err != nil {
				return fmt.Errorf("bind %d: %w", i, err)
			}
		}
	case InjectFile:
		if !ValidSecretPath(c.FilePath) {
			return fmt.Errorf("file_path %.200q is no file below /tmp, or /workspace without /workspace/out", c.FilePath)
		}
	case InjectEnv:
		if !validVariable(c.EnvName) {
			return fmt.Errorf("env_name %.100q is not the name of a variable, or of one that steers how programs are run", c.EnvName)
		}
	default:
		return errors.New("inject is missing")
	}
	if c.FilePath != "" && c.Inject != InjectFile || c.EnvName != "" && c.Inject != InjectEnv {
		return errors.New("file_path and env_name are of the inject that they are named for")
	}
	return nil
}

// modes are those in which a credential is set on a request.
var modes = []string{"bearer", "basic", "header", "query", "sigv4"}

func (b Binding) validate() error {
	switch {
	case b.Host == "" || strings.HasPrefix(b.Host, "*"):
		return fmt.Errorf("host %.300q is not one name: a credential goes to one place", b.Host)
	case b.Port < 1 || b.Port > 65535:
		return fmt.Errorf("%d is not a port", b.Port)
	case !slices.Contains(modes, b.Mode):
		return fmt.Errorf("mode %.100q is none of %s", b.Mode, strings.Join(modes, ", "))
	case (b.Mode == "header" || b.Mode == "query") && b.Name == "":
		return fmt.Errorf("name is missing, of the %s", b.Mode)
	}
	return nil
}

// ValidSecretPath reports whether a credential may be laid at that path: a file in a
// writable place of the sandbox, and not where artifacts are taken from.
func ValidSecretPath(p string) bool {
	return len(p) <= 255 && path.Clean(p) == p && !strings.ContainsAny(p, "\x00\n") &&
		(strings.HasPrefix(p, "/tmp/") || strings.HasPrefix(p, "/workspace/")) &&
		p != "/workspace/out" && !strings.HasPrefix(p, "/workspace/out/") && !strings.HasPrefix(p, "/tmp/.execgate")
}

// validVariable refuses the prefixes by which the linker, the shell and the gateway's
// own drivers are steered.
func validVariable(name string) bool {
	for _, prefix := range []string{"LD", "DYLD", "EXECGATE", "BASH", "PYTHON", "NODE", "PERL", "RUBY", "GCONV", "MALLOC", "GLIBC"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || rest[0] == '_') {
			return false
		}
	}
	return variableName.MatchString(name)
}

// VariableOf is the variable that a field of a credential of InjectEnv is in.
func (c Credential) VariableOf(field string) string {
	upper := []byte(strings.ToUpper(field))
	for i, b := range upper {
		if (b < 'A' || b > 'Z') && (b < '0' || b > '9') {
			upper[i] = '_'
		}
	}
	return c.EnvName + "_" + string(upper)
}
