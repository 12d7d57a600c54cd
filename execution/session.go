package execution

// Owner is whom something belongs to: a principal, without what it may do. No
// two owners ever share a sandbox.
type Owner struct {
	Tenant  string `json:"tenant"`
	Subject string `json:"subject"`
}

// Owner returns whom what this principal makes belongs to.
func (p Principal) Owner() Owner { return Owner{p.Tenant, p.Subject} }

// Session is a sandbox that stays between executions, with its files and,
// where a language's driver can stay, the interpreter's state.
type Session struct {
	ID    string // "se_" and a ULID
	Owner Owner
	// Language is the one that its executions are in; where it is empty they are
	// commands.
	Language string
	Grant    Grant
}

// SessionGrant bounds a session. The zero value grants none.
type SessionGrant struct {
	IdleS     int64 `json:"idle_s"`     // seconds without an execution after which it ends
	AbsoluteS int64 `json:"absolute_s"` // seconds after which it ends whatever it does
	Max       int64 `json:"max"`        // open sessions of the tenant at once
}

// SessionState is what an execution left of its session.
type SessionState string

// The states of a session after an execution.
const (
	SessionKept  SessionState = "kept"  // files and the interpreter's state
	SessionReset SessionState = "reset" // the files: the interpreter ended, and the next execution starts another
	SessionEnded SessionState = "ended" // nothing: the sandbox is gone
)

// Reuse is who may get a sandbox that has run something before.
type Reuse string

// ReusePrincipal lets the next execution of the same owner, with an equal grant,
// have the sandbox. The zero Reuse lets nobody.
const ReusePrincipal Reuse = "principal"
