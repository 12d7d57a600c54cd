package egress

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// fetchTimeout bounds the wait for a credential.
const fetchTimeout = 15 * time.Second

// Credentials lends the credentials of InjectEgress.
type Credentials interface {
	// Value returns the fields of one, and counts one use of it. It is called for
	// each request that a binding matches, and never for others.
	Value(ctx context.Context, executionID, tool string) (map[string]execution.Secret, execution.Lease, error)
}

// bound is the credential for a request. The zero bound is none.
type bound struct {
	tool    string
	strict  bool
	lasting bool
	binding execution.Binding
}

// choose returns what is bound to a request. More than one match is refused: which of
// them is meant would be a guess.
func choose(credentials []execution.Credential, d destination, q question) (found bound, code string) {
	for _, c := range credentials {
		if c.Inject != execution.InjectEgress {
			continue
		}
		for _, bind := range c.Bind {
			switch {
			case bind.Host != d.host || bind.Port != d.port,
				len(bind.Methods) > 0 && !slices.Contains(bind.Methods, q.method), !matchPath(bind.Paths, q.path):
			case found.tool != "":
				return bound{}, codeAmbiguous
			default:
				found = bound{c.Tool, c.Strict, lasting(c), bind}
			}
		}
	}
	if found.tool != "" && !q.tls && !d.rule.Private {
		return bound{}, codeNeedsTLS
	}
	return found, ""
}

// fetch returns the fields of what is bound. What was wrong is for the lender's own
// records.
func (b *Broker) fetch(ctx context.Context, job *execution.Job, c bound) (map[string]execution.Secret, string) {
	if b.credentials == nil {
		return nil, codeNoCredential
	}
	within, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	fields, _, err := b.credentials.Value(within, job.ID, c.tool)
	if err != nil {
		b.log.WarnContext(ctx, "a credential is not to be had", "execution", job.ID, "tool", c.tool, "kind", execution.KindOf(err))
		return nil, codeNoCredential
	}
	return fields, ""
}

// field returns the value of a credential that has one: the first of the usual names,
// or its only field.
func field(fields map[string]execution.Secret) string {
	for _, name := range []string{"token", "value", "password"} {
		if v := fields[name].Reveal(); v != "" {
			return v
		}
	}
	if len(fields) == 1 {
		for _, v := range fields {
			return v.Reveal()
		}
	}
	return ""
}

// sendable reports whether a value can be part of a header without being more than
// one (CR, LF), or less (NUL).
func sendable(value string) bool {
	return value != "" && validValue(value) && !strings.Contains(value, "\t") && strings.TrimSpace(value) == value
}
