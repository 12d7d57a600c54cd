package policy

import "github.com/execgate/execgate/execution"

// document is the decision document: what data.execgate.decision answers. It is
// whole from the start, so that what is valid does not change as the gateway
// learns to honour more of it.
type document struct {
	given            given // which of the fields below are in the answer
	effect           execution.Effect
	reasons          []execution.Reason
	limits           execution.Limits    // the most of each that this request may have
	onExceed         map[string]onExceed // by the name of a limit
	digests          []string            // image.digests
	runtime          string
	envAllow         []string // env.allow
	optionalControls []string
	network          network
	credentials      []execution.Credential
	session          *execution.SessionGrant
	reuse            reuse // empty: not given, which is never
	approval         *approval
	obligations      []execution.Obligation
	advice           []execution.Obligation

	// warnings and shadowed are reasons that would have denied, were the modes of
	// their rules not warn and shadow.
	warnings, shadowed []execution.Reason
	// lifted says that such reasons alone stood against the allow.
	lifted bool
}

// given is a set of the document's fields. Those of the organisation's layer that
// are absent grant nothing; those of a tenant's layer leave what was granted.
type given uint16

const (
	givenLimits given = 1 << iota
	givenImage
	givenRuntime
	givenEnv
	givenOptionalControls
	givenNetwork
	givenCredentials
	givenSession
	givenReuse
)

// fieldsGiven are the fields by their names in the document.
var fieldsGiven = map[string]given{
	"limits": givenLimits, "image": givenImage, "runtime": givenRuntime, "env": givenEnv,
	"optional_controls": givenOptionalControls, "network": givenNetwork,
	"credentials": givenCredentials, "session": givenSession, "reuse": givenReuse,
}

func (g given) has(field given) bool { return g&field != 0 }

// onExceed is what is done with a request that asks for more than a limit.
type onExceed string

const (
	exceedClamp onExceed = "clamp"
	exceedDeny  onExceed = "deny"
)

// reuse is who may get a sandbox that has run something before.
type reuse string

const (
	reuseNever     reuse = "never"
	reusePrincipal reuse = "principal"
)

func (r reuse) granted() execution.Reuse {
	if r == reusePrincipal {
		return execution.ReusePrincipal
	}
	return ""
}

type network struct {
	rules  []execution.NetworkRule
	budget *execution.NetworkBudget
	decide execution.NetworkDecide // empty: not given, which is grant
}

type approval struct {
	expiresS int64
	roles    []string
}
