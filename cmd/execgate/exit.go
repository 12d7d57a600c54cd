package main

import (
	"errors"
	"fmt"
	"net/http"
)

// Exit codes. 3 is for what a replay found. 69, 75 and 77 are those of sysexits.h (EX_UNAVAILABLE,
// EX_TEMPFAIL, EX_NOPERM), 124 that of timeout(1), 125 that of docker run where
// it is not the program's, 130 that of a shell for SIGINT.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitFound       = 3
	exitUnavailable = 69
	exitBusy        = 75
	exitDenied      = 77
	exitTimedOut    = 124
	exitStopped     = 125
	exitInterrupted = 130
)

// exitCode ends the command without another word: all was said already.
type exitCode int

// Error implements error.
func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// coded is an error with an exit code of its own.
type coded struct {
	code int
	error
}

// Unwrap returns the cause.
func (c coded) Unwrap() error { return c.error }

// usage is an error of the command line.
func usage(format string, a ...any) error { return coded{exitUsage, fmt.Errorf(format, a...)} }

// codeOf returns the exit code of an error.
func codeOf(err error) int {
	if err == nil {
		return 0
	}
	if c, ok := errors.AsType[coded](err); ok {
		return c.code
	}
	return exitFailed
}

// codeOfStatus is the exit code of an answer that is not a success.
func codeOfStatus(status int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusTooManyRequests:
		return exitBusy
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return exitUnavailable
	case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge:
		return exitUsage
	}
	return exitFailed
}
