package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
)

// The ids under which this package gives reasons of its own.
const (
	ruleEngine   = "gateway.policy"
	ruleLimits   = "gateway.limits"
	ruleImage    = "gateway.image"
	ruleRuntime  = "gateway.runtime"
	ruleEnv      = "gateway.env"
	ruleNetwork  = "gateway.network"
	ruleTools    = "gateway.tools"
	ruleSession  = "gateway.session"
	ruleCeilings = "gateway.ceilings"
)

// The codes of what was asked for and not granted.
const (
	codeDenied            = "denied"
	codeLimitExceeded     = "limit_exceeded"
	codeLimitInvalid      = "limit_invalid"
	codeImageNotGranted   = "image_not_granted"
	codeRuntimeNotGranted = "runtime_not_granted"
	codeEnvNotGranted     = "env_not_granted"
	codeNetworkNotGranted = "network_not_granted"
	codeToolNotGranted    = "tool_not_granted"
	codeSessionNotGranted = "session_not_granted"
)

// enforce makes a Decision of a valid document: it holds what was asked for
// against what was granted, clamps quantities and denies qualities. honoured are
// the types of obligation that the gateway can meet.
func enforce(d document, in *input, revision string, honoured []string) execution.Decision {
	if in.isEgress() {
		return d.enforceEgress(in, revision)
	}
	if in.isAuditRead() {
		return d.enforceAuditRead(revision)
	}
	if d.effect == execution.EffectDeny {
		return denied(revision, d.denials())
	}
	if flaw := d.flaw(honoured); flaw != nil {
		return denied(revision, []execution.Reason{*flaw})
	}

	limits, clamped, refusals := d.enforceLimits(in.Action.Limits)
	refusals = append(refusals, d.enforceQualities(in)...)
	if len(refusals) > 0 {
		return denied(revision, refusals)
	}
	grant := execution.Grant{
		Image: in.Action.Image.Digest, Runtime: d.runtime, Limits: limits,
		Env: in.Action.EnvNames, OptionalControls: d.optionalControls, Reuse: d.reuse.granted(),
	}
	if len(d.network.rules) > 0 {
		grant.Network = execution.Network{Rules: d.network.rules, Budget: *d.network.budget}
		if d.network.decide == execution.DecideRequest {
			grant.Network.Decide = execution.DecideRequest
		}
	}
	for _, c := range d.credentials { // nothing is lent that was not asked for
		if slices.Contains(in.Action.Tools, c.Tool) {
			grant.Credentials = append(grant.Credentials, c)
		}
	}
	if problem := sharedPlace(grant.Credentials); problem != "" {
		return denied(revision, []execution.Reason{invalid(errors.New(problem)).reason})
	}
	if in.wantsSession() {
		grant.Session = *d.session // enforceQualities refuses where there is none
	}
	return execution.Decision{
		Effect:      d.effect,
		Reasons:     append([]execution.Reason{}, d.reasons...),
		Grant:       grant,
		Clamped:     clamped,
		Obligations: append(slices.Clone(d.obligations), d.advice...),
		Approval:    d.approvalTerms(),
		Warnings:    d.warnings,
		Shadowed:    d.shadowed,
		Revision:    revision,
	}
}

// approvalTerms are those of a document that incomplete has passed.
func (d *document) approvalTerms() *execution.ApprovalTerms {
	if d.effect != execution.EffectRequireApproval {
		return nil
	}
	return &execution.ApprovalTerms{ExpiresS: d.approval.expiresS, Roles: d.approval.roles}
}

func denied(revision string, reasons []execution.Reason) execution.Decision {
	return execution.Decision{
		Effect: execution.EffectDeny, Reasons: reasons,
		Clamped: []execution.Clamp{}, Revision: revision,
	}
}

// denials are the reasons of a document that denies: never none.
func (d *document) denials() []execution.Reason {
	if len(d.reasons) > 0 {
		return d.reasons
	}
	return []execution.Reason{{
		Code: codeDenied, Rule: ruleEngine,
		Message:     "The policy denies this request and gives no reason.",
		Remediation: "The policy's author has to add reasons to the decision.",
	}}
}

// flaw is why an allow cannot be carried out whatever was asked for; nil where it can.
func (d *document) flaw(honoured []string) *execution.Reason {
	if what := d.unsupported(honoured); what != "" {
		return new(unsupported(what))
	}
	problem := d.incomplete()
	if problem == "" {
		return nil
	}
	if d.lifted {
		problem = "only rules in the mode warn or shadow deny, but the answer does not say what is granted without them: " + problem
	}
	return new(invalid(errors.New(problem)).reason)
}

// unsupported names the first part of an allow that this gateway cannot carry
// out. To leave it out would be to run under another decision than was made.
func (d *document) unsupported(honoured []string) string {
	for _, o := range d.obligations {
		if o.Must && !slices.Contains(honoured, o.Type) {
			return fmt.Sprintf("the obligation %.100q", o.Type)
		}
	}
	return ""
}

func unsupported(what string) execution.Reason {
	return execution.Reason{
		Code: execution.CodePolicyUnsupported, Rule: ruleEngine,
		Message:     "The policy asks for what this gateway cannot do: " + what + ".",
		Remediation: "The policy's author has to decide without it.",
	}
}

// incomplete says what an allow lacks, or what of it makes no sense. Nothing
// downstream has a default.
func (d *document) incomplete() string {
	if err := d.limits.Validate(); err != nil {
		return err.Error()
	}
	if d.runtime == "" {
		return "runtime is missing"
	}
	if d.session != nil {
		if err := d.session.Validate(); err != nil {
			return err.Error()
		}
	}
	if problem := d.network.incomplete(); problem != "" {
		return problem
	}
	for i, c := range d.credentials {
		if err := c.Validate(); err != nil {
			return fmt.Sprintf("credentials[%d], of the tool %.100q: %v", i, c.Tool, err)
		}
	}
	if d.effect == execution.EffectRequireApproval {
		return d.approval.incomplete()
	}
	return ""
}

// maxApprovalS is how long an approval may be waited for, in seconds: a week.
const maxApprovalS = 7 * 24 * 60 * 60

func (a *approval) incomplete() string {
	switch {
	case a == nil:
		return `effect is "require_approval" and approval is missing`
	case a.expiresS < 1 || a.expiresS > maxApprovalS:
		return fmt.Sprintf("approval.expires_s is %d and not from 1 to %d", a.expiresS, maxApprovalS)
	case len(a.roles) == 0:
		return "approval.roles is empty, so nobody could approve"
	}
	return ""
}

// enforceQualities holds what was asked for, and is granted or not, against
// the document. All refusals are given at once, so that a caller can mend the
// request in one go.
func (d *document) enforceQualities(in *input) (refusals []execution.Reason) {
	refuse := func(code, rule, message, remediation string) {
		refusals = append(refusals, execution.Reason{
			Code: code, Rule: rule, Message: message, Remediation: remediation,
		})
	}
	asked := &in.Action
	if !in.runsNothing() && (asked.Image.Digest == "" || !slices.Contains(d.digests, asked.Image.Digest)) {
		refuse(codeImageNotGranted, ruleImage,
			fmt.Sprintf("The image %.200q with the digest %.80q is not granted.", asked.Image.Name, asked.Image.Digest),
			"Ask for an image that the policy grants.")
	}
	if asked.Runtime != "" && asked.Runtime != d.runtime {
		refuse(codeRuntimeNotGranted, ruleRuntime,
			fmt.Sprintf("The runtime %.100q is not granted.", asked.Runtime),
			fmt.Sprintf("Ask for the runtime %q, or for none.", d.runtime))
	}
	for _, name := range asked.EnvNames {
		if !slices.Contains(d.envAllow, name) {
			refuse(codeEnvNotGranted, ruleEnv,
				fmt.Sprintf("The variable %.200q is not granted.", name),
				"Leave the variable out, or pass the value in the input.")
		}
	}
	for _, to := range asked.Network {
		if !slices.ContainsFunc(d.network.rules, func(r execution.NetworkRule) bool { return r.Opens(to) }) {
			refuse(codeNetworkNotGranted, ruleNetwork,
				fmt.Sprintf("The destination %s:%d is not granted.", to.Host, to.Port),
				"Ask for a destination that the policy grants, or pass the data in the input or as files.")
		}
	}
	for _, tool := range asked.Tools {
		if !slices.ContainsFunc(d.credentials, func(c execution.Credential) bool { return c.Tool == tool }) {
			refuse(codeToolNotGranted, ruleTools,
				fmt.Sprintf("There is no credential for the tool %.200q.", tool),
				"Leave the tool out, or have the security team grant it a credential in the policy.")
		}
	}
	if in.wantsSession() && d.session == nil {
		refuse(codeSessionNotGranted, ruleSession,
			"Sessions are not granted.",
			"Send executions without a session: each starts anew, so pass what it needs in the input or as files.")
	}
	return refusals
}
