package execution

import "fmt"

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

// The bounds of a SessionGrant. They catch slips of the hand.
const (
	MaxSessionS = 7 * 24 * 60 * 60 // of AbsoluteS
	MaxSessions = 10_000           // of Max
)

// Validate reports what is wrong with a grant that is not the zero one.
func (g SessionGrant) Validate() error {
	switch {
	case g.AbsoluteS < 1 || g.AbsoluteS > MaxSessionS:
		return fmt.Errorf("session absolute_s is %d: it must be from 1 to %d", g.AbsoluteS, MaxSessionS)
	case g.IdleS < 1 || g.IdleS > g.AbsoluteS:
		return fmt.Errorf("session idle_s is %d: it must be from 1 to absolute_s, %d", g.IdleS, g.AbsoluteS)
	case g.Max < 1 || g.Max > MaxSessions:
		return fmt.Errorf("session max is %d: it must be from 1 to %d", g.Max, MaxSessions)
	}
	return nil
}

// SessionEnd is why a session ended.
type SessionEnd string

// The ends of a session.
const (
	SessionDeleted SessionEnd = "deleted"       // by a caller
	SessionIdle    SessionEnd = "idle"          // not used for idle_s
	SessionExpired SessionEnd = "expired"       // open for absolute_s
	SessionLost    SessionEnd = "sandbox_ended" // with its sandbox: killed for a limit, or the engine lost it
	SessionStopped SessionEnd = "stopped"       // the gateway was stopped in order
	// SessionCrashed is recorded for a session that was open when the gateway died.
	SessionCrashed SessionEnd = "unknown_crash"
)

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
