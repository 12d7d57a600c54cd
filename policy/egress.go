package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// The kind egress is one request that a running program sends out. It is asked about
// often, so its document is small, and its answer is an effect and reasons: what may be
// reached at all, and within which budget, was granted with the execution.

// egressInput is the request that is asked about.
type egressInput struct {
	Host   string `json:"host"`
	Port   int    `json:"port"`
	Method string `json:"method"`          // empty, as is Path, of a connection that nobody reads
	Path   string `json:"path"`            // without the query
	Bytes  *int64 `json:"bytes,omitempty"` // nil: not known
}

// codeEgressInvalid is of a request that has no one form.
const codeEgressInvalid = "egress_invalid"

// What a request may have, in bytes. The path is what fits into a head that the
// broker takes.
const (
	maxEgressMethod = 32
	maxEgressPath   = 64 << 10
)

func (in *input) isEgress() bool { return in.Action.Kind == string(execution.ActionEgress) }

// newEgressInput is newInput of the kind egress. What the program is, and what has
// been used, belongs to the execution: it was decided on, and is absent here.
func newEgressInput(q execution.Question, config Config) (*input, *execution.Reason) {
	r := q.Egress
	if r == nil {
		return nil, new(notEgress("there is no request"))
	}
	host, err := normaliseHost(r.Host)
	switch {
	case err != nil || r.Port < 1 || r.Port > 65535:
		return nil, new(notEgress(fmt.Sprintf("%.300q, port %d, is not a destination", r.Host, r.Port)))
	case len(r.Method) > maxEgressMethod || strings.Trim(r.Method, methodBytes) != "":
		return nil, new(notEgress(fmt.Sprintf("%.50q is not a method", r.Method)))
	case (r.Method == "") != (r.Path == "") || !plainPath(r.Path):
		return nil, new(notEgress(fmt.Sprintf("%.300q is not a path in its one form", r.Path)))
	}
	in := &input{
		V:         inputVersion,
		Request:   requestInput{ID: q.ID, TimeNS: q.Time.UnixNano(), TraceID: q.TraceID},
		Principal: newPrincipalInput(q.Principal),
		Agent:     newAgentInput(q.Request),
		Action:    actionInput{Kind: string(q.Action)},
		Egress:    &egressInput{Host: host, Port: r.Port, Method: r.Method, Path: r.Path},
		Context:   contextInput{Environment: config.Environment},
	}
	if r.Bytes >= 0 {
		in.Egress.Bytes = &r.Bytes
	}
	return in, nil
}

// methodBytes are those of a token (RFC 9110, 5.6.2), without lower case: methods are
// compared as they are, and "get" is not GET.
const methodBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

// plainPath reports whether a path is one that is compared and forwarded alike. The
// broker has normalised it; this is here so that no other caller's is taken on trust.
func plainPath(path string) bool {
	if path == "" {
		return true
	}
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`?#\;`, r) }
	if path[0] != '/' || len(path) > maxEgressPath || strings.ContainsFunc(path, odd) {
		return false
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.Contains(path, "//")
}

func notEgress(why string) execution.Reason {
	return execution.Reason{
		Code: codeEgressInvalid, Rule: ruleNetwork,
		Message:     "Policy cannot be asked about this outbound request: " + why + ".",
		Remediation: "Send it to a host name and a port, with a plain method and a clean path.",
	}
}

// egressDocument is an input of the kind egress as JSON.
type egressDocument struct {
	V         int            `json:"v"`
	Request   requestInput   `json:"request"`
	Principal principalInput `json:"principal"`
	Agent     agentInput     `json:"agent"`
	Action    struct {
		Kind string `json:"kind"`
	} `json:"action"`
	Egress  *egressInput `json:"egress,omitempty"`
	Context struct {
		Environment string `json:"environment"`
	} `json:"context"`
}

// encode is the document as JSON.
func (in *input) encode() ([]byte, error) {
	if !in.isEgress() {
		return json.Marshal(in)
	}
	d := egressDocument{V: in.V, Request: in.Request, Principal: in.Principal, Agent: in.Agent, Egress: in.Egress}
	d.Action.Kind, d.Context.Environment = in.Action.Kind, in.Context.Environment
	return json.Marshal(d)
}

// narrowEgress takes the stricter of two answers about an outbound request.
func (d *document) narrowEgress(by document, in *input) {
	by.proveEgress(in)
	d.narrowEffect(by)
	d.obligations = eitherObligation(d.obligations, by.obligations)
	d.warnings = eitherReason(d.warnings, by.warnings)
	d.shadowed = eitherReason(d.shadowed, by.shadowed)
}

// proveEgress denies again what only rules in the mode warn or shadow deny, unless the
// answer has a rule in network.rules that opens the destination: reasons that are lifted
// do not say that anything else was granted.
func (d *document) proveEgress(in *input) {
	if !d.lifted || d.effect == execution.EffectDeny {
		return
	}
	opens := func(r execution.NetworkRule) bool {
		return r.Opens(execution.Destination{Host: in.Egress.Host, Port: in.Egress.Port})
	}
	if in.Egress == nil || !slices.ContainsFunc(d.network.rules, opens) {
		d.refuse(invalid(errors.New("only rules in the mode warn or shadow deny, but none of network.rules opens the destination without them")).reason)
	}
}

// enforceEgress makes a Decision of an answer about an outbound request. Nothing but
// an allow without conditions allows: a request cannot wait for an approval, and no
// obligation is met for it.
func (d *document) enforceEgress(in *input, revision string) execution.Decision {
	d.proveEgress(in)
	switch {
	case d.effect == execution.EffectDeny:
		return denied(revision, d.denials())
	case in.Egress == nil:
		return denied(revision, []execution.Reason{notEgress("there is no request")})
	case d.effect != execution.EffectAllow:
		return denied(revision, append(slices.Clip(d.reasons), unsupported("an approval of an outbound request")))
	}
	for _, o := range d.obligations {
		if o.Must {
			return denied(revision, []execution.Reason{unsupported(fmt.Sprintf("the obligation %.100q of an outbound request", o.Type))})
		}
	}
	return execution.Decision{
		Effect: execution.EffectAllow, Reasons: append([]execution.Reason{}, d.reasons...), Clamped: []execution.Clamp{},
		Warnings: d.warnings, Shadowed: d.shadowed, Revision: revision,
	}
}
