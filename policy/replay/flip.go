package replay

import (
	"encoding/json"

	"github.com/execgate/execgate/execution"
)

// Decided is a decision that was just made and recorded.
type Decided struct {
	Execution string
	Seq       uint64
	Principal execution.Principal
	RequestID string
	TraceID   string
	Asked     *execution.Asked
}

// flipOf describes how is, by the revision candidate, differs from was.
func flipOf(seq uint64, candidate, revision string, was, is []byte, classes []Class) execution.PolicyFlip {
	var before, after decision
	for text, into := range map[*[]byte]*decision{&was: &before, &is: &after} {
		if err := json.Unmarshal(*text, into); err != nil {
			continue // it is compared already, so it can be read
		}
	}
	flip := execution.PolicyFlip{
		DecidedSeq: seq, Candidate: candidate, Revision: revision, Was: before.Effect, Is: after.Effect,
		WasRules: some(rules(before.Reasons)), IsRules: some(rules(after.Reasons)),
	}
	for _, class := range classes {
		flip.Classes = append(flip.Classes, string(class))
	}
	return flip
}

// maxFlipRule bounds a rule's id in a flip, in bytes.
const maxFlipRule = 256

// some are the first rules, each cut.
func some(ids []string) []string {
	ids = ids[:min(len(ids), execution.MaxFlipRules)]
	for i, id := range ids {
		ids[i] = id[:min(len(id), maxFlipRule)]
	}
	return ids
}
