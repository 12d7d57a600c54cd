package execution

import "slices"

// Role is what a principal may do with the API. Roles do not include one
// another, except that RoleAdmin includes all.
type Role string

// The roles of the table of routes.
const (
	RoleCaller       Role = "caller"        // runs code and calls tools
	RoleApprover     Role = "approver"      // approves or refuses what policy holds back
	RoleAuditor      Role = "auditor"       // reads the audit log
	RolePolicyAuthor Role = "policy_author" // reads and activates policy
	RoleAdmin        Role = "admin"         // everything, and makes and revokes keys
)

// Roles lists every role.
func Roles() []Role {
	return []Role{RoleCaller, RoleApprover, RoleAuditor, RolePolicyAuthor, RoleAdmin}
}

// Principal is who asks. It is proven by a credential and never taken from the
// body of a request.
type Principal struct {
	// Subject names the principal within its tenant: the id of an API key, or
	// the subject of a token.
	Subject string `json:"subject"`
	Tenant  string `json:"tenant"`
	Roles   []Role `json:"roles"`
	// Method is how the principal was proven.
	Method Method `json:"method"`
}

// Method is a way of proving a principal.
type Method string

// The methods by which a principal is proven.
const (
	MethodAPIKey Method = "api_key"
	// MethodLocal is the operator of this machine: `execgate run --local`
	// holds the state folder itself, so there is nobody else to prove it to.
	MethodLocal Method = "local"
)

// Has reports whether the principal holds role, or is an admin.
func (p Principal) Has(role Role) bool {
	return slices.Contains(p.Roles, role) || slices.Contains(p.Roles, RoleAdmin)
}
