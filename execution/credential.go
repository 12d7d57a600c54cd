package execution

import "time"

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
	Name    string   `json:"name,omitempty"` // of the header or query parameter
	Mode    string   `json:"mode"`           // bearer, basic, header, query or sigv4
}

// Loan is what one execution is to be lent.
type Loan struct {
	Execution   string
	Owner       Owner
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
