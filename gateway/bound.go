package gateway

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// The bounds of what policy says, in bytes of JSON where they are of texts. With
// those of a request (decode.go) they bound a decided record: a log whose
// segments are of 8 MiB or more takes every one.
const (
	maxReasonsBytes = 448 << 10 // of all reasons
	maxWarningBytes = 32 << 10  // of all that did not decide, in each of two modes
	maxReasonText   = 4 << 10   // a message, a remediation
	maxPolicyName   = 128       // a code, a rule, a runtime, a control, an obligation, a revision
	maxPolicyList   = 64        // controls, obligations
)

// reasonSyntax is what a reason's member names and punctuation take.
const reasonSyntax = 64

// cut returns text cut so that it takes at most `most` bytes inside JSON, and as
// valid UTF-8. What was cut ends in an ellipsis.
func cut(text string, most int) string {
	const ellipsis = "…"
	text = strings.ToValidUTF8(text, "\uFFFD")
	size, keep := 0, 0 // keep is where text is cut if it is too long
	for i, r := range text {
		size += runeBytes(r)
		if size > most {
			return text[:keep] + ellipsis
		}
		if size <= most-len(ellipsis) {
			keep = i + utf8.RuneLen(r)
		}
	}
	return text
}

// fits reports whether text takes at most `most` bytes inside JSON.
func fits(text string, most int) bool { return jsonBytes(text) <= most }

// jsonBytes is an upper bound of what text takes inside a JSON string of a
// record, without the quotes.
func jsonBytes(text string) (n int) {
	for _, r := range text {
		n += runeBytes(r)
	}
	return n
}

func runeBytes(r rune) int {
	switch {
	case r == '"' || r == '\\':
		return 2
	case r < ' ' || r >= 0x7f && r <= 0x9f, // the log escapes DEL and C1 too
		r == '<' || r == '>' || r == '&', r == '\u2028' || r == '\u2029',
		r == utf8.RuneError: // may stand for a byte that is none
		return len(`\u0000`)
	}
	return utf8.RuneLen(r)
}

func boundArtifacts(all []execution.ArtifactHash) []execution.ArtifactHash {
	listed := slices.Clone(all[:min(len(all), execution.MaxRecordArtifacts)])
	for i := range listed {
		listed[i].Path = cut(listed[i].Path, execution.MaxRecordPath)
	}
	return listed
}

// boundLeases keeps what a lender returns within the record. There is one lease
// for a credential, and checkGrant lets no more of those through.
func boundLeases(leases []execution.Lease) []execution.Lease {
	listed := slices.Clone(leases[:min(len(leases), execution.MaxRecordLeases)])
	for i := range listed {
		listed[i].Tool = cut(listed[i].Tool, execution.MaxRecordTool)
		listed[i].ID = cut(listed[i].ID, execution.MaxRecordLeaseID)
		listed[i].Expires = listed[i].Expires.UTC()
	}
	return listed
}

// boundUsage keeps limits_hit to as many names as there are limits.
func boundUsage(u execution.Usage) execution.Usage {
	u.LimitsHit = append([]string{}, u.LimitsHit[:min(len(u.LimitsHit), len(execution.AllLimits()))]...) // never null
	for i := range u.LimitsHit {
		u.LimitsHit[i] = cut(u.LimitsHit[i], 32)
	}
	return u
}

// boundReasons cuts what is too long and says how many reasons are left out.
func boundReasons(reasons []execution.Reason, most int) []execution.Reason {
	bounded, size := []execution.Reason{}, 0
	for i, r := range reasons {
		r = execution.Reason{
			Code: cut(r.Code, maxPolicyName), Rule: cut(r.Rule, maxPolicyName),
			Message: cut(r.Message, maxReasonText), Remediation: cut(r.Remediation, maxReasonText),
		}
		size += reasonSyntax + jsonBytes(r.Code) + jsonBytes(r.Rule) + jsonBytes(r.Message) + jsonBytes(r.Remediation)
		if size > most {
			return append(bounded, execution.Reason{
				Code: "reasons_omitted", Rule: "gateway.reasons",
				Message: fmt.Sprintf("%d more reasons are left out.", len(reasons)-i),
			})
		}
		bounded = append(bounded, r)
	}
	return bounded
}

// boundWarnings bounds reasons that did not decide, of which there may be none.
func boundWarnings(reasons []execution.Reason) []execution.Reason {
	if len(reasons) == 0 {
		return nil
	}
	return boundReasons(reasons, maxWarningBytes)
}

// checkSize says what of an answer that allows is too large to be recorded. To
// cut it would be to record another decision than was made.
func checkSize(d execution.Decision) string {
	g := d.Grant
	unfit := func(name string) bool { return !fits(name, maxPolicyName) }
	switch {
	case len(d.Clamped) > len(execution.AllLimits()) ||
		slices.ContainsFunc(d.Clamped, func(c execution.Clamp) bool { return unfit(c.Limit) }):
		return "the policy clamped more than there is"
	case len(d.Obligations) > maxPolicyList ||
		slices.ContainsFunc(d.Obligations, func(o execution.Obligation) bool { return unfit(o.Type) }):
		return fmt.Sprintf("the policy gave more than %d obligations, or one whose name is too long", maxPolicyList)
	case obligationBytes(d.Obligations) > maxObligationBytes:
		return fmt.Sprintf("the policy gave obligations of more than %d KiB", maxObligationBytes>>10)
	case len(g.OptionalControls) > maxPolicyList || slices.ContainsFunc(g.OptionalControls, unfit):
		return fmt.Sprintf("the policy gave more than %d optional controls, or one whose name is too long", maxPolicyList)
	case len(g.Env) > maxVariables || slices.ContainsFunc(g.Env, unfit):
		return "the policy granted more variables than can be asked for"
	case len(g.Credentials) > execution.MaxRecordLeases ||
		slices.ContainsFunc(g.Credentials, func(c execution.Credential) bool { return !fits(c.Tool, execution.MaxRecordTool) }):
		return fmt.Sprintf("the policy granted more than %d credentials, or one of a tool whose name is too long", execution.MaxRecordLeases)
	case unfit(g.Runtime):
		return "the policy granted a runtime whose name is too long"
	}
	return ""
}

// maxObligationBytes bounds what obligations say of themselves, all together.
const maxObligationBytes = 32 << 10

func obligationBytes(obligations []execution.Obligation) (n int) {
	for _, o := range obligations {
		n += len(o.Args)
	}
	return n
}
