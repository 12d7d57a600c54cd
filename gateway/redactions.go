package gateway

import (
	"slices"

	"github.com/execgate/execgate/execution"
)

// redactions are those of several obligations, one after the other, as policy gave them:
// the organisation's before the tenant's. Joined to one, a pattern of the tenant's that
// begins a character earlier would take the beginning off what the organisation's
// matches, and let the rest of it out.
type redactions []*redaction

// newRedactions makes one of the patterns of each obligation. Together they have the
// bounds of one.
func newRedactions(patterns [][]string) (redactions, error) {
	if _, err := newRedaction(slices.Concat(patterns...)); err != nil {
		return nil, err
	}
	var all redactions
	for _, own := range patterns {
		one, err := newRedaction(own)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// result is in, redacted by each.
func (r redactions) result(in execution.Result) execution.Result {
	for _, one := range r {
		in = one.result(in)
	}
	return in
}

func (r redactions) events(tell func(execution.Event) error) *maskedEvents {
	return &maskedEvents{tell: tell, stdout: r.masker(), stderr: r.masker()}
}

func (r redactions) masker() masker {
	var all chain
	for _, one := range r {
		all = append(all, &redactor{of: one})
	}
	return all
}

// chain are maskers of which each masks what the one before lets go.
type chain []masker

func (c chain) write(piece []byte) []byte {
	for _, m := range c {
		piece = m.write(piece)
	}
	return piece
}

func (c chain) end(cutOff bool) (rest []byte) {
	for _, m := range c {
		rest = append(m.write(rest), m.end(cutOff)...)
	}
	return rest
}
