// Package executor runs one job in one sandbox and leaves nothing behind.
//
// A sandbox is a container without a network, hardened by spec.go, whose only
// wire is the attached stream that package wire speaks over. Nothing here
// assumes that the engine is on this machine.
package executor
