package gateway

import (
	"maps"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// known is what is to be kept out of all that leaves while a program is given exposed:
// that, and what programs before it in the session were given and may have kept, in a
// file or in a variable. Of no session, which nil is, it is exposed alone.
func (o *session) known(exposed []execution.Exposed) []execution.Exposed {
	if o == nil {
		return exposed
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	known := slices.Clone(o.given)
	for _, x := range exposed {
		if !slices.ContainsFunc(known, sameAs(x)) {
			known = append(known, x)
		}
	}
	return known
}

// give says that a program in the session is given exposed.
func (o *session) give(exposed []execution.Exposed) {
	if o == nil {
		return
	}
	known := o.known(exposed)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.given = known
}

// forget drops what was made for one execution and opens nothing any more, as leases
// say: a session that is lent a password for each program would otherwise hold so many
// that no text could be searched for them.
func (o *session) forget(exposed []execution.Exposed, leases []execution.Lease) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range exposed {
		over := func(l execution.Lease) bool { return l.Tool == x.Credential.Tool && l.Revoked }
		if !stored(x.Credential) && slices.ContainsFunc(leases, over) {
			o.given = slices.DeleteFunc(o.given, sameAs(x))
		}
	}
}

// stored reports whether a credential is one that was there before it was read, and
// opens what it opens also when the token that read it has ended.
func stored(c execution.Credential) bool {
	made := []string{execution.EngineDatabase, execution.EnginePKI, execution.EngineAWS, execution.EngineOther}
	return !slices.Contains(made, c.Engine) || strings.HasPrefix(c.Path, "static-creds/")
}

func sameAs(x execution.Exposed) func(execution.Exposed) bool {
	return func(y execution.Exposed) bool {
		return x.Credential.Tool == y.Credential.Tool && maps.Equal(x.Fields, y.Fields)
	}
}
