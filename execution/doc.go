// Package execution is the vocabulary of Execgate: what is asked, decided,
// lent, run and recorded. It holds data and the rules that belong to the data,
// imports only the standard library, and may be imported by every package.
//
// One execution flows through these types in this order:
//
//	Principal + Request -> Decision -> Grant (+ Lease) -> Job -> Result
//
// and leaves a Record at each step that matters.
package execution
