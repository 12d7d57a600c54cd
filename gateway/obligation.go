package gateway

import (
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// The obligations that the gateway can meet.
const (
	obligationRedact = "redact"
	obligationNotify = "notify"
	obligationRetain = "retain"
	obligationFull   = "record_full"
)

// Obligations are the types of obligation that a Service can meet, for the policy
// to be told; materials says whether it has Materials.
func Obligations(materials bool) []string {
	known := []string{obligationRedact, obligationNotify}
	if materials {
		known = append(known, obligationRetain, obligationFull)
	}
	return known
}

// duties are the obligations of one decision, ready to be met. The zero duties are
// none.
type duties struct {
	redact redactions // nil: nothing is redacted
	places []*hook    // reserved; one delivery each
	hold   holding
}

// oblige readies the obligations of d, which allows. Where one that must be met
// cannot be, it is d's refusal. One that need not be met and cannot be is left out.
func (s *Service) oblige(d execution.Decision) (duties, execution.Decision) {
	if !d.Allowed() {
		return duties{}, d
	}
	var ready duties
	var patterns [][]string // of each obligation
	for _, o := range d.Obligations {
		code, problem := "", ""
		switch o.Type {
		case obligationRedact:
			var more []string
			if more, problem = redactArgs(o); problem == "" {
				patterns = append(patterns, more)
			}
		case obligationNotify:
			code, problem = s.obligeNotify(o, &ready)
		case obligationRetain, obligationFull:
			code, problem = s.obligeHold(o, &ready.hold)
		default:
			code, problem = execution.CodePolicyUnsupported, "this gateway does not know it"
		}
		switch {
		case problem == "":
		case o.Must:
			ready.drop()
			return duties{}, unmet(d, code, fmt.Sprintf("the obligation %.100q cannot be met: %s", o.Type, problem))
		default:
			s.log.Warn("an obligation that need not be met is left out", "type", cut(o.Type, maxPolicyName), "problem", problem)
		}
	}
	if len(patterns) == 0 {
		return ready, d
	}
	var err error
	if ready.redact, err = newRedactions(patterns); err != nil {
		ready.drop()
		return duties{}, unmet(d, execution.CodePolicyInvalid, "the patterns to redact cannot be used: "+err.Error())
	}
	return ready, d
}

// codeObligationFailed: what must be done cannot be done now.
const codeObligationFailed = "obligation_failed"

// unmet is the refusal of d, which allowed: nothing was granted, also not in the
// record.
func unmet(d execution.Decision, code, message string) execution.Decision {
	if code == "" {
		code = execution.CodePolicyInvalid
	}
	d = refuse(d, code, message)
	d.Grant, d.Obligations, d.Clamped = execution.Grant{}, nil, []execution.Clamp{}
	return d
}

// redactArgs are the patterns of o, checked by themselves.
func redactArgs(o execution.Obligation) (patterns []string, problem string) {
	f := &faults{}
	if m := splitObject(o.Args, "", f); m != nil {
		patterns, _ = take[[]string](m, "", "patterns", f)
		m.rest("", f)
	}
	if len(f.fields) > 0 {
		return nil, f.fields[0].Pointer + " " + f.fields[0].Detail
	}
	if _, err := newRedaction(patterns); err != nil {
		return nil, err.Error()
	}
	return patterns, ""
}

// obligeNotify reserves the place of a delivery.
func (s *Service) obligeNotify(o execution.Obligation, ready *duties) (code, problem string) {
	f := &faults{}
	var name string
	if m := splitObject(o.Args, "", f); m != nil {
		name, _ = take[string](m, "", "webhook", f)
		m.rest("", f)
	}
	switch {
	case len(f.fields) > 0:
		return "", f.fields[0].Pointer + " " + f.fields[0].Detail
	case !s.webhooks.has(name):
		return execution.CodePolicyUnsupported, "no webhook of its name is configured"
	}
	place, ok := s.webhooks.place(name)
	if !ok {
		return codeObligationFailed, "too many notices wait for its webhook"
	}
	ready.places = append(ready.places, place)
	return "", ""
}

// drop gives up what was reserved.
func (d *duties) drop() {
	for _, place := range d.places {
		place.drop()
	}
	d.places = nil
}

// notify tells the webhooks that q was allowed. It does not wait.
func (d *duties) notify(q execution.Question, decision execution.Decision) {
	n := notice{
		Event: eventAllowed, Time: time.Now().UTC(), Tenant: q.Principal.Tenant, Subject: q.Principal.Subject,
		Action: q.Action, RequestSHA256: q.RequestSHA256, Revision: decision.Revision,
	}
	if q.Action == execution.ActionSession {
		n.Session = q.ID
	} else {
		n.Execution = q.ID
	}
	for _, place := range d.places {
		place.tell(q.ID, n)
	}
	d.places = nil
}

// events is tell with the output redacted, where it is to be, and what tells the
// rest of it once the program has ended. Both are nil where nobody is told.
func (d *duties) events(tell func(execution.Event) error) (told func(execution.Event) error, rest func(execution.Truncated) error) {
	if tell == nil || d.redact == nil {
		return tell, nil
	}
	e := d.redact.events(tell)
	return e.add, e.rest
}

// redacted is result as it may leave. Of what cannot be redacted nothing leaves.
func (s *Service) redacted(d duties, result execution.Result, rest func(execution.Truncated) error) (out execution.Result) {
	if d.redact == nil {
		return result
	}
	var err error
	defer func() {
		if err != nil {
			out = withheld(result)
		}
	}()
	defer s.recovered("redact", &err)
	if rest != nil {
		if toldErr := s.tellRest(rest, result.Truncated); toldErr != nil {
			s.log.Warn("the last of the output is not told", "error", toldErr)
		}
	}
	return d.redact.result(result)
}

func (s *Service) tellRest(rest func(execution.Truncated) error, cutOff execution.Truncated) (err error) {
	defer s.recovered("tell of the rest", &err)
	return rest(cutOff)
}
