// Package policy asks Rego for a Decision.
//
// The policy in force is a folder of Rego and data that a security team owns
// (a Bundle). It is compiled once, when it is activated, and its one query,
// data.execgate.decision, is evaluated for each execution.Question. The answer
// is a decision document; what an execution may have is worked out from that
// document and from the question here, in Go.
//
// Everything that is not an explicit, complete and valid allow denies, each
// case with its own code: no policy, no answer, a wrong answer, an error, an
// evaluation that runs past its deadline, an answer this gateway cannot honour.
package policy
