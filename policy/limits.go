package policy

import (
	"fmt"

	"github.com/execgate/execgate/execution"
)

// enforceLimits works out what each limit is for a request that asked for
// asked: what was asked for where the document allows as much; what the
// document allows where more or nothing was asked for.
func (d *document) enforceLimits(asked execution.Limits) (
	granted execution.Limits, clamped []execution.Clamp, refusals []execution.Reason,
) {
	clamped = []execution.Clamp{}
	for _, limit := range execution.AllLimits() {
		most, want := *limit.Of(&d.limits), *limit.Of(&asked)
		give := &granted
		switch {
		case want == 0:
			*limit.Of(give) = most
		case want < limit.Min:
			refusals = append(refusals, execution.Reason{
				Code: codeLimitInvalid, Rule: ruleLimits,
				Message:     fmt.Sprintf("The limit %s is %d, which is less than anything can run in.", limit.Name, want),
				Remediation: fmt.Sprintf("Ask for %s from %d to %d, or leave it out.", limit.Name, limit.Min, most),
			})
		case want <= most:
			*limit.Of(give) = want
		case d.onExceed[limit.Name] == exceedDeny:
			refusals = append(refusals, execution.Reason{
				Code: codeLimitExceeded, Rule: ruleLimits,
				Message:     fmt.Sprintf("The limit %s is %d, and at most %d is granted.", limit.Name, want, most),
				Remediation: fmt.Sprintf("Ask for %s of at most %d, or leave it out.", limit.Name, most),
			})
		default:
			*limit.Of(give) = most
			clamped = append(clamped, execution.Clamp{Limit: limit.Name, Requested: want, Granted: most})
		}
	}
	return granted, clamped, refusals
}
